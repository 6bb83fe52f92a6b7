"""Run a part of a test without the rights of root, for whom nothing is unreadable or write-protected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def as_user() -> Iterator[None]:
    """Act as nobody if the tests run as root; else as whoever runs them."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
