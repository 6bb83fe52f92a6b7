"""Effect sizes and intervals by which the claims are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_UNITS = 3  # fewer give no interval


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, the number of independent units behind it and, for pairs, a p-value.

    ``low`` and ``high`` are None where there are too few units for an interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    p: float | None = None

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """``0.612 [0.581, 0.644]``, with ``sign`` as +0.012; without an interval the value alone."""
        form = f"{'+' if sign else ''}.{digits}f"
        if self.low is None:
            return format(self.value, form)
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def superiority(
    lower: Sequence[np.ndarray], higher: Sequence[np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """P(x < y) + P(x = y) / 2 for x from ``lower`` and y from ``higher``: one half says that nothing differs.

    Args:
        lower, higher: values of each image, one array per image and equally many. Patches of one image are not
            independent, so that the interval is a bootstrap over whole images (percentiles).

    Returns:
        The estimate over all pairs of values, n = images; None without any.

    Source: Mann and Whitney 1947 (the statistic); Vargha and Delaney 2000 (as effect size). Test: tests/test_stats.py
    """
    if not len(lower):
        return None
    value, drawn = superiority_draws(lower, higher, seed, resamples)
    return bootstrapped(value, drawn, len(lower))


def superiority_draws(
    lower: Sequence[np.ndarray], higher: Sequence[np.ndarray], seed: int, resamples: int = RESAMPLES
) -> tuple[float, np.ndarray]:
    """The value of :func:`superiority` and its bootstrap draws over images."""
    count = len(lower)
    wins = np.empty((count, count))
    for j, y in enumerate(higher):
        ordered = np.sort(y)
        for i, x in enumerate(lower):
            above = len(y) - np.searchsorted(ordered, x, side="right")
            equal = len(y) - np.searchsorted(ordered, x, side="left") - above
            wins[i, j] = (above + equal / 2).sum()
    pairs = np.outer([len(x) for x in lower], [len(y) for y in higher]).astype(float)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    drawn = ((weights @ wins) * weights).sum(axis=1) / ((weights @ pairs) * weights).sum(axis=1)
    return float(wins.sum() / pairs.sum()), drawn


def bootstrapped(value: float, drawn: np.ndarray, count: int) -> Estimate:
    """A value with the percentile interval of its draws; without one for too few images."""
    if count < LEAST_UNITS:
        return Estimate(value, None, None, count)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), count)


def mean_superiority(groups: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]) -> Estimate | None:
    """Mean of :func:`superiority` over several (lower, higher), one per run, with a bootstrap over the images of each.

    The runs are taken as they are: the interval says what other images of the same products would give.
    Test: tests/test_stats.py
    """
    found = [(*superiority_draws(a, b, seed), len(a)) for seed, (a, b) in enumerate(groups) if len(a)]
    if not found:
        return None
    values, draws, counts = zip(*found, strict=True)
    count = sum(counts) if min(counts) >= LEAST_UNITS else min(counts)
    return bootstrapped(float(np.mean(values)), np.mean(draws, axis=0), count)


def mean_interval(values: Sequence[float]) -> Estimate | None:
    """Mean with its t interval, and the p-value of a t-test against 0; None without values.

    Test: tests/test_stats.py
    """
    x = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    if not len(x):
        return None
    if len(x) < LEAST_UNITS:
        return Estimate(float(x.mean()), None, None, len(x))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    p = float(stats.ttest_1samp(x, 0.0).pvalue) if half > 0 else float(x.mean() == 0)
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x), p)


def differences(table: pd.DataFrame, metric: str, a: str, b: str) -> pd.Series:
    """Metric of variant ``a`` minus that of ``b``, by category and seed, for the pairs that both have.

    Args:
        table: columns ``variant``, ``category``, ``seed`` and the metrics, as of :class:`advit.study.Runs`.

    Test: tests/test_stats.py
    """
    index = ["category", "seed"]
    first, second = (table[table["variant"] == v].set_index(index)[metric].astype(float) for v in (a, b))
    return (first - second).dropna().sort_index()


def paired(table: pd.DataFrame, metric: str, a: str, b: str) -> Estimate | None:
    """Mean of :func:`differences` with its t interval and the paired t-test's p-value.

    Test: tests/test_stats.py
    """
    return mean_interval(differences(table, metric, a, b).to_numpy())


def wilcoxon_p(values: Sequence[float]) -> float | None:
    """p-value of Wilcoxon's signed-rank test of differences against 0; None for fewer than 5.

    Test: tests/test_stats.py
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 5 or not np.any(x):
        return None
    return float(stats.wilcoxon(x).pvalue)


SUPPORTED, AGAINST, UNDECIDED, UNTESTED = (
    "supported", "not supported (the opposite)", "not supported (no clear difference)", "not tested on this data"
)  # fmt: skip


def verdict(estimate: Estimate | None, null: float = 0.0) -> str:
    """What an estimate says of a claim "greater than ``null``": by where its 95 % interval lies.

    Test: tests/test_stats.py
    """
    if estimate is None or estimate.low is None:
        return UNTESTED
    if estimate.low > null:
        return SUPPORTED
    return AGAINST if estimate.high < null else UNDECIDED
