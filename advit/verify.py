"""Does this machine get the committed numbers? The smoke profile anew, compared table by table."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from advit.errors import ConfigError
from advit.reproduce import ROOT, cpu_family, make_job, reproduce
from advit.results import versions

TOLERANCE = 2e-3  # of a printed value, where versions or processor differ
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def verify(out: Path = ROOT, progress: bool = True) -> Iterator[tuple[str, bool]]:
    """Train and evaluate the smoke profile from nothing and compare with ``results/smoke``; yields (line, is equal).

    On the same versions and family of CPU every table must be equal to the byte; elsewhere every word must be equal and
    every number within TOLERANCE: the profile computes in float64, so that other rounding stays far below it. Verdicts,
    which may turn on a digit, are then not compared. The store is a new one, so that everything is trained.

    Raises:
        ConfigError: if there is nothing to compare with. NotebookError: if a notebook fails.

    Test: tests/test_verify.py
    """
    committed = out / "results" / "smoke"
    if not (committed / "provenance.json").exists():
        raise ConfigError(f"{committed} holds no tables to compare with: pass --out with a checkout of the repository.")
    found = json.loads((committed / "provenance.json").read_text(encoding="utf-8"))
    alike = public(found["versions"]) == public(versions()) and found["cpu"] == cpu_family()
    rule = "equal to the byte" if alike else f"equal within {TOLERANCE:g} (other versions or another family of CPU)"
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


def public(found: dict[str, str | None]) -> dict[str, str | None]:
    """Versions without what a build appends, as in ``2.13.0+cpu``."""
    return {name: value and value.split("+")[0] for name, value in found.items()}


WORDS_OF_DIGITS = ("verdict", "C1")  # follow from the numbers beside them


def same_text(expected: str, found: str, exactly: bool) -> bool:
    """Equal words, and equal numbers in them, or close ones if not ``exactly``. Test: tests/test_verify.py"""
    if exactly or expected == found:
        return expected == found
    one, two = NUMBER.findall(expected), NUMBER.findall(found)
    close = len(one) == len(two) and all(abs(float(x) - float(y)) <= TOLERANCE for x, y in zip(one, two, strict=True))
    return close and NUMBER.sub("", expected) == NUMBER.sub("", found)


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
            rows = zip(a[column].astype(str), b[column].astype(str), strict=True)
            if (exactly or column not in WORDS_OF_DIGITS) and not all(same_text(x, y, exactly) for x, y in rows):
                return f"column {column} differs"
            continue
        gap = np.abs(a[column].to_numpy(float) - b[column].to_numpy(float))
        gap = np.where(a[column].isna() & b[column].isna(), 0, gap)
        if not (gap <= (0 if exactly else TOLERANCE)).all():
            row = int(np.nanargmax(np.where(np.isnan(gap), np.inf, gap)))
            return f"column {column}, row {row + 1}: {b[column][row]} instead of {a[column][row]}"
    return ""
