"""Writing files whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from advit.errors import AdvitError, DataError

try:
    import fcntl
except ImportError:
    fcntl = None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Readers see the old file or the new one, never half of one, also after a kill or on a full disk.

    Raises:
        AdvitError: if the folder cannot be written to or the disk is full; an earlier file is kept.

    Test: tests/test_files.py
    """
    path = Path(path)
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        why = error.strerror or error
        raise AdvitError(f"Cannot write {path}: {why}. Free some space or choose another folder.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` for the length of a block; another process waits, and a killed one lets go.

    Where the system has no file locks (Windows) nothing is locked. Test: tests/test_files.py
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise AdvitError(f"Cannot write {path}: {error.strerror}. Choose another folder.") from error
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def require_regular(path: Path) -> None:
    """Raise DataError for a pipe, a socket or a device, which could be read for ever; links are followed.

    Test: tests/test_broken_data.py
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"cannot read {path}: it is a pipe, a socket or a device. Replace it by a file or remove it.")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; bytes of a path that are no UTF-8 are written as escapes."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: indented, keys in the order given, no NaN (which is not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
