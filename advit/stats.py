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
    """A value with its 95 % interval, the number of units behind it and what they are and, for pairs, a p-value.

    ``low`` and ``high`` are None where there are too few units for an interval. ``unit``: what other draws the interval
    speaks of: other ``images`` of the same products, other ``categories``, or other ``seeds`` on the same images.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    p: float | None = None
    unit: str = ""

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
        return Estimate(value, None, None, count, unit="images")
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), count, unit="images")


def mean_superiority(
    groups: Sequence[tuple[str, Sequence[np.ndarray], Sequence[np.ndarray]]]
) -> Estimate | None:
    """Mean of :func:`superiority` over several (category, lower, higher), one per run; a bootstrap over images.

    Runs of one category look at the same images and draw them together, and n counts each image once. The categories
    are taken as they are: the interval says what other images of the same products would give.
    Test: tests/test_stats.py
    """
    groups = [(name, a, b) for name, a, b in groups if len(a)]
    if not groups:
        return None
    names = sorted({name for name, *_ in groups})
    found = [superiority_draws(a, b, names.index(name)) for name, a, b in groups]
    counts = {name: len(a) for name, a, _ in groups}
    count = sum(counts.values()) if min(counts.values()) >= LEAST_UNITS else min(counts.values())
    values, draws = zip(*found, strict=True)
    return bootstrapped(float(np.mean(values)), np.mean(draws, axis=0), count)


def over_units(values: pd.Series) -> Estimate | None:
    """:func:`mean_interval` of values indexed by ``category`` and ``seed``, over units that are independent.

    Seeds of one category see the same images. So they are averaged first, and the units are the categories; two are too
    few for an interval. With one category the units are the seeds: the interval then speaks of other seeds, not of
    other products.

    Test: tests/test_stats.py
    """
    values = values.dropna()
    means = values.groupby("category").mean()
    if len(means) > 1:
        return mean_interval(means.to_numpy(), "categories")
    return mean_interval(values.to_numpy(), "seeds")


def mean_interval(values: Sequence[float], unit: str = "") -> Estimate | None:
    """Mean with its t interval, and the p-value of a t-test against 0; None without values.

    Test: tests/test_stats.py
    """
    x = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    if not len(x):
        return None
    if len(x) < LEAST_UNITS:
        return Estimate(float(x.mean()), None, None, len(x), unit=unit)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    p = float(stats.ttest_1samp(x, 0.0).pvalue) if half > 0 else float(x.mean() == 0)
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x), p, unit)


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
    """Mean of :func:`differences` with its t interval and the paired t-test's p-value, by :func:`over_units`.

    Test: tests/test_stats.py
    """
    return over_units(differences(table, metric, a, b))


def wilcoxon_p(values: Sequence[float]) -> float | None:
    """p-value of Wilcoxon's signed-rank test of differences against 0; None for fewer than 5.

    Test: tests/test_stats.py
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 5 or not np.any(x):
        return None
    return float(stats.wilcoxon(x).pvalue)


SUPPORTED, AGAINST, NEGLIGIBLE, UNDECIDED, UNTESTED = (
    "supported", "not supported (the opposite)", "not supported (below 0.02 either way)", "undecided",
    "not tested on this data",
)  # fmt: skip
MARGIN = 0.02  # of a metric or a probability: less is of no use to anybody


def verdict(estimate: Estimate | None, null: float = 0.0) -> str:
    """What an estimate says of a claim "greater than ``null``": by where its 95 % interval lies.

    Within MARGIN of ``null``: shown to make no difference of use, whichever side it lies on. Else wholly above:
    supported; wholly below: the opposite; anything else is undecided. Test: tests/test_stats.py
    """
    if estimate is None or estimate.low is None:
        return UNTESTED
    if null - MARGIN <= estimate.low and estimate.high <= null + MARGIN:
        return NEGLIGIBLE
    if estimate.low > null:
        return SUPPORTED
    return AGAINST if estimate.high < null else UNDECIDED
