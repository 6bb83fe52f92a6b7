"""Rows of both associations in one pass each (rows.cpp), made by the machine's own C++ compiler at the first call."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("rows.cpp")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
BEST_FIRST = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())  # what not every compiler knows
COMPILERS = ("c++", "g++", "clang++")


def compiled() -> ctypes.CDLL:
    """rows.cpp as a library of this process; it takes about a second, and leaves no file.

    Raises:
        OSError: no compiler, or none that makes a library that can be loaded; with what was said last.
    """
    if sys.platform == "win32":  # a loaded library cannot be deleted, and MinGW does not align vectors on the stack
        raise OSError("No C++ compiler is used on Windows")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"No C++ compiler: none of {', '.join(COMPILERS)} is found; CXX can name another")
    words = [compiler] if shutil.which(compiler) else shlex.split(compiler)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "rows.so"
        for extra in BEST_FIRST:
            command = [*words, *FLAGS, *extra, str(SOURCE), "-o", str(target)]
            found = subprocess.run(command, capture_output=True, text=True)
            said = found.stderr.strip() or f"exit status {found.returncode}"
            if found.returncode == 0:
                try:
                    return ctypes.CDLL(str(target))
                except OSError as error:  # without OpenMP at run time, or where nothing may be executed
                    said = str(error)
    raise OSError(f"The C++ compiler {compiler} failed: {said.splitlines()[0]}")


@cache
def native_library() -> tuple[ctypes.CDLL | None, str]:
    """rows.cpp, made at the first call of a process, or None and why it cannot be made. Test: tests/test_native.py"""
    try:
        return compiled(), ""
    except (OSError, ValueError) as error:  # ValueError: words that cannot be split or decoded
        return None, str(error)


def _call(name: str, written: Sequence[Tensor], read: Sequence[Tensor | None], numbers: Sequence[float]) -> None:
    """One of the functions of rows.cpp, on tensors in the dtype of the first, which is ``(pair, rows, N)``.

    Raises:
        ValueError: one that is written to is not contiguous, not on the CPU, or not all are float32 or all float64.
    """
    first = written[0]
    kinds = {(x.dtype, x.device.type, x.is_contiguous()) for x in written}
    if len(kinds) > 1 or kinds.isdisjoint({(torch.float32, "cpu", True), (torch.float64, "cpu", True)}):
        raise ValueError("what rows.cpp writes to must be contiguous, on the CPU, and float32 or float64")
    double = first.dtype == torch.float64
    function = getattr(native_library()[0], f"{name}_{'float64' if double else 'float32'}")
    given = [None if x is None else x.to(first.dtype).contiguous() for x in read]  # kept until the call is over
    pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (*written, *given)]
    values = [(ctypes.c_double if double else ctypes.c_float)(x) for x in numbers]
    function(*pointers, *values, *map(ctypes.c_int64, first.shape), ctypes.c_int(torch.get_num_threads()))


def _must_fit(logits: Tensor, squared: Tensor, *of_rows: Tensor | None) -> None:
    """Raises ValueError if D^2 or numbers of rows are not of the rows of ``logits``."""
    shapes = {tuple(x.shape) for x in of_rows if x is not None} - {(*logits.shape[:2], 1)}
    if shapes or squared.shape != logits.shape[1:]:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit D^2 {tuple(squared.shape)}, or rows of {shapes}")


def divergence_rows(
    logits: Tensor, a: Tensor, squared: Tensor, eps: float, lowest: float, weight: Tensor | None = None
) -> Tensor:
    """What :func:`advit.divergence.row_divergence` finds of every row of ``logits (pair, rows, N)``, contiguous.

    Args:
        a, weight: ``(pair, rows, 1)``. squared: D^2 ``(rows, N)``. lowest: no exponent is below it.
        weight: if given, ``logits`` become the gradient of the weighted values towards them; else S. In place.

    Returns:
        ``(6, pair, rows, 1)``: value, E[h], d / d a, and the largest logit, S and P.

    Test: tests/test_native.py
    """
    _must_fit(logits, squared, a, weight)
    found = logits.new_empty(6, *a.shape)
    _call("divergence", (logits, found), (a, squared, weight), (eps, lowest))
    return found


def attention_rows(
    logits: Tensor, inner: Tensor, a: Tensor, squared: Tensor, peaks: Tensor, constant: Tensor,
    weight: float, eps: float, lowest: float,
) -> None:  # fmt: skip
    """In place: ``logits`` to S, made anew, and ``inner`` to S (inner + constant + weight (u + log u)); u = 1 / t.

    Args:
        logits, inner: ``(pair, rows, N)``, contiguous. a, constant: ``(pair, rows, 1)``. squared: D^2 ``(rows, N)``.
        peaks: ``(3, pair, rows, 1)``, the largest logit, S and P.

    Test: tests/test_native.py
    """
    _must_fit(logits, squared, a, constant, *peaks)
    _call("attention", (logits, inner), (a, squared, peaks, constant), (weight, eps, lowest))
