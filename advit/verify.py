"""Does this machine get the committed numbers? The smoke profile anew, compared table by table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from advit.errors import ConfigError
from advit.reproduce import ROOT, make_job, reproduce
from advit.results import versions

TOLERANCE = 2e-3  # of a printed value: other versions round differently in the last of 48 steps, and ranks may swap


def verify(out: Path = ROOT, progress: bool = True) -> Iterator[tuple[str, bool]]:
    """Train and evaluate the smoke profile from nothing and compare with ``results/smoke``; yields (line, is equal).

    On the same versions and CPU capability every table must be equal to the byte; elsewhere every number to
    TOLERANCE. The store is a new one, so that everything is trained.

    Raises:
        ConfigError: if there is nothing to compare with. NotebookError: if a notebook fails.

    Test: tests/test_verify.py
    """
    committed = out / "results" / "smoke"
    if not (committed / "provenance.json").exists():
        raise ConfigError(f"{committed} holds no tables to compare with: pass --out with a checkout of the repository.")
    found = json.loads((committed / "provenance.json").read_text(encoding="utf-8"))
    alike = found["versions"] == versions() and found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    rule = "equal to the byte" if alike else f"equal within {TOLERANCE:g} (other versions or another kind of CPU)"
    yield f"Comparing with {committed}: tables must be {rule}.", True
    scratch = out / "runs" / "verify"
    shutil.rmtree(scratch, ignore_errors=True)
    job = replace(make_job("smoke", None, (), (), "", scratch), store=scratch / "store")
    for line in reproduce(job, torch.device("cpu"), progress=progress):
        yield f"  {line}", True
    names = ["runs.csv", *csv_names(committed)]
    for name in names:
        difference = compare(committed / name, job.results / name, exactly=alike)
        yield f"{name}: {difference or 'equal'}", not difference
    if extra := [name for name in csv_names(job.results) if name not in names]:
        yield f"not committed: {', '.join(extra)}", False


def csv_names(results: Path) -> list[str]:
    """The tables of a reproduction, by their paths in it."""
    return sorted(p.relative_to(results).as_posix() for p in (results / "tables").glob("*.csv"))


def compare(expected: Path, found: Path, exactly: bool) -> str:
    """What differs between two CSV tables, in words; empty if nothing does.

    The column ``record`` is not compared: it names files by a key of the code. Test: tests/test_verify.py
    """
    if not found.exists():
        return "was not made"
    if expected.read_bytes() == found.read_bytes():
        return ""
    a, b = pd.read_csv(expected), pd.read_csv(found)
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return f"has {len(b)} rows of {', '.join(b.columns)} instead of {len(a)} of {', '.join(a.columns)}"
    for column in a.columns.drop("record", errors="ignore"):
        if not pd.api.types.is_numeric_dtype(a[column]) or not pd.api.types.is_numeric_dtype(b[column]):
            if exactly and list(a[column].astype(str)) != list(b[column].astype(str)):
                return f"column {column} differs"
            continue
        gap = np.abs(a[column].to_numpy(float) - b[column].to_numpy(float))
        gap = np.where(a[column].isna() & b[column].isna(), 0, gap)
        if not (gap <= (0 if exactly else TOLERANCE)).all():
            row = int(np.nanargmax(np.where(np.isnan(gap), np.inf, gap)))
            return f"column {column}, row {row + 1}: {b[column][row]} instead of {a[column][row]}"
    return ""
