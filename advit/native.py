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
    """pairs.cpp as a library of this process; it takes some two seconds, and leaves no file.

    Raises:
        OSError: no compiler, or none that makes a library that can be loaded; with what was said last.
    """
    if sys.platform == "win32":  # a loaded library cannot be deleted, and MinGW does not align vectors on the stack
        raise OSError("No C++ compiler is used on Windows")
    compiler = os.environ.get("CXX", "").strip() or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"No C++ compiler: none of {', '.join(COMPILERS)} is found; CXX can name another")
    words = [compiler] if shutil.which(compiler) else shlex.split(compiler)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "pairs.so"
        for extra in BEST_FIRST:
            if sys.platform == "darwin" and "-fopenmp" in extra:
                continue  # a second OpenMP beside PyTorch's ends the process there
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
        RuntimeError: there is no library, and why.
    """
    library, why = native_library()
    if library is None:
        raise RuntimeError(why)
    double = written[0].dtype == torch.float64
    function = getattr(library, f"{name}_{'float64' if double else 'float32'}")
    given = [None if x is None else x.to(written[0].dtype).contiguous() for x in read]  # kept until the call is over
    pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (*written, *given)]
    values = [(ctypes.c_double if double else ctypes.c_float)(x) for x in (*numbers, LOWEST)]
    threads = max(1, min(torch.get_num_threads(), len(read[0])))
    if function(*pointers, *values, *map(ctypes.c_int64, read[0].shape), ctypes.c_int(threads)):
        raise MemoryError(f"no memory for associations of matrices (pair, N, d_h) = {tuple(read[0].shape)}")


def _must_fit(matrices: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
    """Raises what :func:`pair_divergence` does for matrices, and for tensors of one number a row."""
    shape, shapes = matrices[0].shape, [tuple(x.shape) for x in (*matrices, *rows)]
    if len(shape) != 3 or shapes != [shape] * len(matrices) + [shape[:2]] * len(rows):
        raise ValueError(f"matrices (pair, N, d_h) and rows (pair, N) do not fit: {shapes}")
    if 0 in shape[1:]:
        raise ValueError(f"no patches, or patches without numbers: (pair, N, d_h) = {tuple(shape)}")
    grid_side(shape[1])
    if len({x.dtype for x in matrices}) > 1:
        raise TypeError(f"matrices must have one dtype; they have {', '.join(str(x.dtype) for x in matrices)}")
    if {x.device.type for x in (*matrices, *rows)} != {"cpu"}:
        raise ValueError("pairs.cpp computes on the CPU, and not all tensors are there")


def _room(like: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """Tensors of these shapes, of float64 if ``like`` is, else of float32."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return [torch.empty(shape, dtype=dtype, device="cpu") for shape in shapes]


def pair_divergence(
    q: Tensor, k: Tensor, a: Tensor, eps: float, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Symmetric KL of every row ``(pair, N)``, gradients of q and k, and d value / d a ``(pair, N)``.

    Formulas: :func:`advit.divergence.row_divergence`. Computed in the dtype of q, in float32 for half precision.

    Args:
        q, k: ``(pair, N, d_h)``. a: 1 / (2 sigma^2), ``(pair, N)``.
        weight: ``(pair, N)``, of each row in the sum that q and k have gradients of; None if they need none.

    Raises:
        ValueError: shapes that do not fit, N patches that are no square grid, a tensor that is not on the CPU.
        TypeError: q and k have different dtypes.

    Test: tests/test_native.py
    """
    _must_fit((q, k), (a,) if weight is None else (a, weight))
    (found,) = _room(q, (6, *a.shape))
    gradients = _room(q, q.shape, k.shape) if weight is not None else [None, None]
    _call("divergence", (found, *gradients), (q, k, a, weight), (eps,))
    value, d_a = found[0].to(a.dtype), found[2].to(a.dtype)
    return value, *(None if x is None else x.to(q.dtype) for x in gradients), d_a


def pair_attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d_h)) V, and six numbers of every row, ``(6, pair, N)``.

    They are the value of the divergence, E[h], d value / d a (:func:`advit.divergence.row_divergence`), and the largest
    logit, S and P (:class:`advit.minimax_attention.RowPeaks`).

    Args, Raises: as :func:`pair_divergence`. Test: tests/test_native.py
    """
    _must_fit((q, k, v), (a,))
    out, found = _room(q, v.shape, (6, *a.shape))
    _call("forward", (out, found), (q, k, v, a), (eps,))
    return out.to(v.dtype), found.to(a.dtype)


def pair_attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, found: Tensor, out: Tensor, d_out: Tensor, weight: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from ``d_out`` and, reversed, that of the divergence's sum weighted by ``weight``.

    Formulas: :func:`advit.minimax_attention.backward_step`. With a weight of 0 P takes no part, be it finite or not.

    Args, Raises: as :func:`pair_divergence`; ``out`` and ``found`` are those of :func:`pair_attention`.
    Test: tests/test_native.py
    """
    _must_fit((q, k, v, out, d_out), (a, *found))
    if len(found) != 6:
        raise ValueError(f"found has {len(found)} numbers of a row; pair_attention finds 6")
    gradients = _room(q, q.shape, k.shape, v.shape)
    _call("backward", gradients, (q, k, v, a, found, out, d_out), (weight, eps))
    return tuple(x.to(q.dtype) for x in gradients)
