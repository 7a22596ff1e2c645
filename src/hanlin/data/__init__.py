"""From files to rows: documents for pre-training, conversations for tuning, and the ledger of what was not used.

```
paths ──files──▶ files ──streams──▶ lines ──rows──▶ raw rows ──formats──▶ Conversation | Document
                                                       └ ledger: every row that cannot be used, by place and reason
```

A fault of one row goes to the ledger and the next row is read; a fault of a whole file (missing, empty, damaged, not
UTF-8) raises UserError at once.
"""
