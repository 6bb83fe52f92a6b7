"""Both associations pair by pair (pairs.cpp), made by the machine's own C++ compiler at the first call."""

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

from advit.patches import grid_side
from advit.precision import LOWEST

SOURCES = tuple(Path(__file__).with_name(x) for x in ("pairs.cpp", "products.h", "rows.h"))  # pairs.cpp has the others
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
BEST_FIRST = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())  # what not every compiler knows
COMPILERS = ("c++", "g++", "clang++")


def compiled() -> ctypes.CDLL:
    """pairs.cpp as a library of this process; it takes one to two seconds, and leaves no file.

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
        target = Path(folder) / "pairs.so"
        for extra in BEST_FIRST:
            command = [*words, *FLAGS, *extra, str(SOURCES[0]), "-o", str(target)]
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
    """pairs.cpp, made at the first call of a process, or None and why it cannot be made. Test: tests/test_native.py"""
    try:
        return compiled(), ""
    except (OSError, ValueError) as error:  # ValueError: words that cannot be split or decoded
        return None, str(error)


def _call(name: str, written: Sequence[Tensor], read: Sequence[Tensor | None], numbers: Sequence[float]) -> None:
    """One of the functions of pairs.cpp, in the dtype of what is written, on pairs of the size of ``read[0]``.

    Raises:
        MemoryError: no room for what each thread works in, some matrices (N, d_h).
    """
    double = written[0].dtype == torch.float64
    function = getattr(native_library()[0], f"{name}_{'float64' if double else 'float32'}")
    given = [None if x is None else x.to(written[0].dtype).contiguous() for x in read]  # kept until the call is over
    pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (*written, *given)]
    values = [(ctypes.c_double if double else ctypes.c_float)(x) for x in (*numbers, LOWEST)]
    threads = max(1, min(torch.get_num_threads(), len(read[0])))
    if function(*pointers, *values, *map(ctypes.c_int64, read[0].shape), ctypes.c_int(threads)):
        raise MemoryError(f"no memory for associations of matrices (pair, N, d_h) = {tuple(read[0].shape)}")


def _room(like: Sequence[Tensor], *of_rows: Tensor) -> list[Tensor]:
    """Room like each of the matrices, and for six numbers a row, in float32, or float64 if the matrices are.

    Raises:
        ValueError: see :func:`pair_divergence`.
    """
    shape, shapes = like[0].shape, [tuple(x.shape) for x in (*like, *of_rows)]
    if len(shape) != 3 or set(shapes) != {shape, shape[:2]} or len(set(shapes[: len(like)])) > 1:
        raise ValueError(f"matrices (pair, N, d_h) and rows (pair, N) do not fit: {shapes}")
    if {x.device.type for x in (*like, *of_rows)} != {"cpu"}:
        raise ValueError("pairs.cpp computes on the CPU, and not all tensors are there")
    grid_side(shape[1])
    dtype = torch.float64 if like[0].dtype == torch.float64 else torch.float32
    return [torch.empty(x, dtype=dtype, device="cpu") for x in (*(x.shape for x in like), (6, *shape[:2]))]


def pair_divergence(
    q: Tensor, k: Tensor, a: Tensor, eps: float, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Symmetric KL of every row ``(pair, N)``, gradients of q and k, and d value / d a ``(pair, N)``.

    Formulas: :func:`advit.divergence.row_divergence`.

    Args:
        q, k: ``(pair, N, d_h)``. a: 1 / (2 sigma^2), ``(pair, N)``.
        weight: ``(pair, N)``, of each row in the sum that q and k have gradients of; None if they need none.

    Raises:
        ValueError: shapes that do not fit, N patches that are no square grid, a tensor that is not on the CPU.

    Test: tests/test_native.py
    """
    d_q, d_k, found = _room((q, k), a, *(() if weight is None else (weight,)))
    _call("divergence", (found, d_q, d_k), (q, k, a, weight), (eps,))
    return found[0], *((None, None) if weight is None else (d_q.to(q.dtype), d_k.to(k.dtype))), found[2]


def pair_attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d_h)) V, and six numbers of every row, ``(6, pair, N)``.

    They are the value of the divergence, E[h], d value / d a (:func:`advit.divergence.row_divergence`), and the largest
    logit, S and P (:class:`advit.minimax_attention.RowPeaks`).

    Args, Raises: as :func:`pair_divergence`. Test: tests/test_native.py
    """
    *_, out, found = _room((q, k, v), a)
    _call("forward", (out, found), (q, k, v, a), (eps,))
    return out.to(v.dtype), found


def pair_attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, found: Tensor, out: Tensor, d_out: Tensor, weight: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from ``d_out`` and, reversed, that of the divergence's sum weighted by ``weight``.

    Formulas: :func:`advit.minimax_attention.backward_step`.

    Args, Raises: as :func:`pair_divergence`; ``out`` and ``found`` are those of :func:`pair_attention`.
    Test: tests/test_native.py
    """
    *gradients, _, _, _ = _room((q, k, v, out, d_out), a, *found)
    _call("backward", gradients, (q, k, v, a, found, out, d_out), (weight, eps))
    return tuple(x.to(q.dtype) for x in gradients)
