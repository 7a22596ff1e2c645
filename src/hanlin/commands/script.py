"""``hanlin script check``: the mistakes of pasted shell scripts, line by line, without running them."""

from __future__ import annotations

from pathlib import Path

from hanlin.config.check import check_script
from hanlin.config.script import ScriptConfig
from hanlin.errors import EXIT_USER_ERROR, UserError


def check(config: ScriptConfig) -> int:
    """Print each fault as ``FILE:LINE: ...``; returns 0 when there is none, else 2. Raises UserError."""
    num_faults = 0
    for name in config.script:
        found = check_script(_read(name))
        shown = [fault for fault in found if config.notes or not fault.is_note]
        for fault in shown:
            print(f"{name}:{fault}")
        faults = sum(not fault.is_note for fault in found)
        num_faults += faults
        print(f"{name}: {faults or 'no'} {'fault' if faults in (0, 1) else 'faults'}")
    return EXIT_USER_ERROR if num_faults else 0


def _read(name: str) -> str:
    try:
        # newline="" keeps carriage returns, which are one of the faults.
        with Path(name).expanduser().open(encoding="utf-8", newline="") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise UserError(name, "does not exist", expected="a shell script") from error
    except OSError as error:
        raise UserError(name, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(name, f"is not UTF-8 (byte {error.start})", expected="a shell script in UTF-8") from error
