"""Training curves of several runs as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

POINTS = 60


def averaged(logs: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """Mean of a column of several logs over the steps that all of them cover, plus and minus its standard error.

    Runs of data sets of different size have epochs of different length: each log is interpolated between its own
    epochs; where a column was not measured in every epoch, between those in which it was.

    Returns:
        Columns ``step``, ``mean``, ``low``, ``high``; low and high equal the mean for a single run.

    Test: tests/test_curves.py
    """
    measured = [log[["step", column]].dropna() for log in logs]
    first, last = max(m["step"].iloc[0] for m in measured), min(m["step"].iloc[-1] for m in measured)
    step = np.unique(np.linspace(first, last, POINTS).round().astype(int))
    values = np.stack([np.interp(step, m["step"], m[column]) for m in measured])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(step))
    mean = values.mean(axis=0)
    return pd.DataFrame({"step": step, "mean": mean, "low": mean - error, "high": mean + error})
