"""Image-level and pixel-level AUROC and AP, AU-PRO and F1-max: exact, ties included, from one sort of the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid
from scipy.ndimage import label

EIGHT_CONNECTED = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Ranking:
    """The distinct values of the positives, highest first, and what lies at and above each; all ``(d,)``.

    A threshold between two of these values changes only how many negatives are found, so every metric here follows
    from these counts. ``weight`` sums to 1: each positive's share, by default 1 / number of positives.
    """

    value: np.ndarray
    count: np.ndarray  # positives at the value
    weight: np.ndarray  # their share
    above: np.ndarray  # negatives above it
    equal: np.ndarray  # negatives at it
    positives: int
    negatives: int

    def auroc(self) -> float:
        """P(positive > negative) + P(equal) / 2, the Mann-Whitney statistic."""
        below = self.negatives - self.above - self.equal
        return float(self.count @ (below + self.equal / 2) / (self.positives * self.negatives))

    def precision(self) -> np.ndarray:
        """Precision of "score >= value"."""
        found = np.cumsum(self.count)
        return found / (found + self.above + self.equal)

    def average_precision(self) -> float:
        """Sum over the values of (gain in recall) x (precision), without interpolation."""
        return float(self.count @ self.precision() / self.positives)

    def f1_max(self) -> tuple[float, float]:
        """Largest 2 TP / (2 TP + FP + FN) of "score >= threshold", and the highest threshold that reaches it."""
        found = np.cumsum(self.count)
        f1 = 2 * found / (found + self.above + self.equal + self.positives)
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.value[best])

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices of (share of negatives, weighted share of positives) with score >= threshold, and thresholds.

        Just above a value, and at it: all scores of one value enter together, negatives between two values move
        the curve sideways only. From (0, 0) at +inf to (1, 1) at -inf.
        """
        after = np.cumsum(self.weight)
        before = np.append(0.0, after[:-1])
        share = np.column_stack([self.above, self.above + self.equal]).ravel() / self.negatives
        just_above = np.nextafter(self.value, np.inf, dtype=self.value.dtype)
        fpr = np.concatenate([[0.0], share, [1.0]])
        found = np.concatenate([[0.0], np.column_stack([before, after]).ravel(), [1.0]])
        thresholds = np.concatenate([[np.inf], np.column_stack([just_above, self.value]).ravel(), [-np.inf]])
        return fpr, np.minimum(found, 1.0), thresholds


def rank(positive: np.ndarray, negative: np.ndarray, weight: np.ndarray | None = None) -> Ranking:
    """Rank positives ``(p,)`` among negatives ``(n,)``, neither empty; sorts ``negative`` in place."""
    negative.sort()
    order = np.argsort(positive)
    ordered = positive[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    value, count = ordered[first], np.diff(np.append(first, ordered.size))
    shares = count / ordered.size if weight is None else np.add.reduceat(weight[order], first)
    left = np.searchsorted(negative, value)
    right, tied = left.copy(), negative[np.minimum(left, negative.size - 1)] == value
    right[tied] = np.searchsorted(negative, value[tied], side="right")
    columns = (value, count, shares, negative.size - right, right - left)
    return Ranking(*(c[::-1] for c in columns), positives=ordered.size, negatives=negative.size)


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Image-level AUROC, average precision and F1-max; None where only one class is present.

    Args:
        scores: ``(n,)``, higher is more anomalous.
        labels: ``(n,)``, 1 or True for an anomalous image.

    Returns:
        ``image_auroc``, ``image_ap`` and ``image_f1max``, in [0, 1]. The last one chooses its threshold with the
        labels, so it is an upper bound, and is never used to decide.

    Raises:
        ValueError: shapes differ, a score is not finite, or a label is not 0 or 1.

    Test: tests/test_metrics.py
    """
    ranking = _image_ranking(scores, labels)
    if ranking is None:
        return {"image_auroc": None, "image_ap": None, "image_f1max": None}
    auroc, ap, (f1, _) = ranking.auroc(), ranking.average_precision(), ranking.f1_max()
    return {"image_auroc": auroc, "image_ap": ap, "image_f1max": f1}


def pixel_metrics(maps: ArrayLike, masks: ArrayLike) -> dict[str, float | None]:
    """Pixel-level AUROC and average precision, and AU-PRO to FPR 0.3 and 0.05; None where undefined.

    Args:
        maps: anomaly maps ``(n, h, w)``, higher is more anomalous; computed in float64 from float32 or float64.
        masks: ``(n, h, w)`` of bool or {0, 1}, True on defects, all False for a defect-free image.

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``aupro_0.3`` and ``aupro_0.05`` (see :func:`aupro`), over all pixels of all
        images together. All are None without a defect pixel or without a defect-free one.

    Raises:
        ValueError: shapes differ or are not ``(n, h, w)``, a map is not finite, or a mask is not binary.

    Differs: the public code prints its pixel-level AUROC as "PRO". Here each has its own name.
    Test: tests/test_metrics.py
    """
    ranking = _pixel_ranking(maps, masks)
    if ranking is None:
        return {"pixel_auroc": None, "pixel_ap": None, "aupro_0.3": None, "aupro_0.05": None}
    fpr, pro, _ = ranking.curve()
    values = {"pixel_auroc": ranking.auroc(), "pixel_ap": ranking.average_precision()}
    return {**values, **{f"aupro_{limit}": _area(fpr, pro, limit) / limit for limit in (0.3, 0.05)}}


def aupro(maps: ArrayLike, masks: ArrayLike, limit: float = 0.3) -> float | None:
    """Area under the per-region-overlap curve up to a false positive rate, divided by that limit.

    PRO(t) is the mean over all connected defect regions (8-connected, of all images) of the share of the region's
    pixels with score >= t; FPR(t) is the share of all defect-free pixels, those of defective images included. The
    curve is linear between thresholds, and at the limit. A constant map has limit / 2. None where undefined.

    Args:
        maps, masks: as :func:`pixel_metrics`.
        limit: largest false positive rate, in (0, 1].

    Raises:
        ValueError: as :func:`pixel_metrics`, or the limit is not in (0, 1].

    Source: Bergmann et al., IJCV 2021, section 5. Test: tests/test_metrics.py
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must lie in (0, 1], not {limit}.")
    ranking = _pixel_ranking(maps, masks)
    return None if ranking is None else _area(*ranking.curve()[:2], limit) / limit


def pro_curve(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rates, per-region overlaps and thresholds of the curve under :func:`aupro`, for plots.

    Three arrays of equal length, from (0, 0) at +inf to (1, 1) at -inf; empty where the curve is undefined. Only
    the vertices: a threshold between two of them lies on the straight line between them.

    Test: tests/test_metrics.py
    """
    ranking = _pixel_ranking(maps, masks)
    if ranking is None:
        return np.empty(0), np.empty(0), np.empty(0)
    fpr, pro, thresholds = ranking.curve()
    moved = np.append(True, (np.diff(fpr) > 0) | (np.diff(pro) > 0))
    return fpr[moved], pro[moved], thresholds[moved]


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float | None, float | None]:
    """Largest F1 of the decision "score >= threshold", and the highest threshold that reaches it; None if undefined.

    Arguments and errors as :func:`image_metrics`. Test: tests/test_metrics.py
    """
    ranking = _image_ranking(scores, labels)
    return (None, None) if ranking is None else ranking.f1_max()


def region_weights(masks: np.ndarray) -> np.ndarray:
    """For each defect pixel, in the order of ``maps[masks]``: 1 / (its region's size x number of regions)."""
    weights, regions = [], 0
    for mask in masks[masks.any(axis=(1, 2))]:
        numbered, found = label(mask, EIGHT_CONNECTED)
        inside = numbered[mask]
        weights.append(1 / np.bincount(inside)[1:][inside - 1])
        regions += found
    return np.concatenate(weights) / regions


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Integral of the polygon through (x, y), x ascending from 0 to 1, over [0, limit]."""
    k = int(np.searchsorted(x, limit, side="right"))
    area = trapezoid(y[:k], x[:k])
    if k < len(x):
        slope = (y[k] - y[k - 1]) / (x[k] - x[k - 1])
        step = limit - x[k - 1]
        area += step * (y[k - 1] + slope * step / 2)
    return float(area)


def _pixel_ranking(maps: ArrayLike, masks: ArrayLike) -> Ranking | None:
    maps, masks = _checked(maps, masks, "maps", "masks", "(n, h, w)", axes=3)
    if masks.all() or not masks.any():
        return None
    return rank(maps[masks], maps[~masks], region_weights(masks))


def _image_ranking(scores: ArrayLike, labels: ArrayLike) -> Ranking | None:
    scores, labels = _checked(scores, labels, "scores", "labels", "(n,)", axes=1)
    return None if labels.all() or not labels.any() else rank(scores[labels], scores[~labels])


def _checked(
    values: ArrayLike, truth: ArrayLike, name: str, truth_name: str, shape: str, axes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finite floats and bools of equal shape, or a ValueError that says what is wrong."""
    values, truth = np.asarray(values), np.asarray(truth)
    if values.ndim != axes or values.shape != truth.shape:
        given = f"{name} {values.shape}, {truth_name} {truth.shape}"
        raise ValueError(f"{name} and {truth_name} must both have shape {shape}, not {given}.")
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        where = np.argwhere(~finite)[0].tolist()
        raise ValueError(f"{name} must be finite: {values[tuple(where)]} at index {where}, {(~finite).sum()} in all.")
    if truth.dtype != bool:
        if not ((truth == 0) | (truth == 1)).all():
            raise ValueError(f"{truth_name} must be binary, True/False or 1/0; they hold other values.")
        truth = truth.astype(bool)
    return values, truth
