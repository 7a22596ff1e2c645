"""One module a verb, read top to bottom like a table of contents of its stages."""
