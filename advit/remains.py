"""What killed processes left: files and folders under the temporary names that advit writes to."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path


def sweep(folder: Path, name: str = "") -> None:
    """Remove files ``.NAME.PID.tmp*`` and folders ``.NAME.PID.part`` of processes that no longer live, of any NAME.

    Only in ``folder`` itself. What cannot be removed stays. Test: tests/test_remains.py
    """
    pattern = re.compile(rf"\.{re.escape(name) or '.+'}\.(\d+)\.(?:tmp(?:\.[^.]+)?|(part))")
    for path in list(folder.glob(".*")):
        found = pattern.fullmatch(path.name)
        if found and bool(found[2]) == path.is_dir() and not lives(int(found[1])):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def lives(pid: int) -> bool:
    """Whether there is a process of this number; True where that cannot be found out."""
    if os.name != "posix":  # elsewhere signal 0 is not harmless
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
