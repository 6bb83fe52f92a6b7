"""Image-level and pixel-level AUROC, AP, F1-max and AU-PRO, each defined once. NumPy, SciPy and scikit-learn only."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

EIGHT = np.ones((3, 3), dtype=int)


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Image-level AUROC, AP and F1-max of scores ``(n,)`` against labels ``(n,)``, True for anomalous.

    All None if only one class is present, because none of them is defined then.

    Raises:
        ValueError: on scores that are not finite, or shapes that differ.

    Test: tests/test_metrics.py
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    _check(scores, labels)
    if labels.all() or not labels.any():
        return {"image_auroc": None, "image_ap": None, "image_f1max": None}
    return {
        "image_auroc": float(roc_auc_score(labels, scores)),
        "image_ap": float(average_precision_score(labels, scores)),
        "image_f1max": f1_max(scores, labels)[0],
    }


def f1_max(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds ``score >= t``, and that threshold.

    It knows the labels: a bound for comparison between methods, not a threshold to use.
    """
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    total = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], total, out=np.zeros_like(total), where=total > 0)
    best = int(f1.argmax())
    return float(f1[best]), float(thresholds[best])


def pixel_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float | None]:
    """Pixel-level AUROC and AP, AU-PRO to FPR 0.3 and 0.05, of maps ``(n, h, w)`` against masks ``(n, h, w)``.

    One sort of the defect-free pixels and one of the defect pixels give all four exactly; ties are handled
    exactly. All None without a defect pixel or without a defect-free one.

    Raises:
        ValueError: on maps that are not finite, masks that are not binary, or shapes that differ.

    Test: tests/test_metrics.py
    """
    if not _defined(maps, masks):
        return {"pixel_auroc": None, "pixel_ap": None, "aupro_0.3": None, "aupro_0.05": None}
    counts = _Counts(maps, masks)
    return {
        "pixel_auroc": counts.auroc(),
        "pixel_ap": counts.average_precision(),
        "aupro_0.3": counts.aupro(0.3),
        "aupro_0.05": counts.aupro(0.05),
    }


def aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float | None:
    """Area under the per-region-overlap curve up to a false positive rate, divided by that rate.

    PRO at a threshold is the mean over connected defect regions (8-connected) of the share of the region's pixels
    at or above the threshold; the false positive rate is that of all defect-free pixels of all images. The curve is
    joined by straight lines, also from (0, 0) and up to ``limit`` exactly.

    Source: Bergmann et al., IJCV 2021, section 5.2. Differs: the public code prints pixel-level AUROC as "PRO".
    Test: tests/test_metrics.py
    """
    return _Counts(maps, masks).aupro(limit) if _defined(maps, masks) else None


def pro_curve(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The whole curve: false positive rate, PRO and threshold, for every threshold at which PRO changes."""
    if not _defined(maps, masks):
        raise ValueError("a PRO curve needs defect pixels and defect-free pixels")
    counts = _Counts(maps, masks)
    return counts.fpr, counts.pro, counts.thresholds


class _Counts:
    """Counts at every threshold that a defect pixel's score sets, from the highest down; `score >= threshold`.

    Between two such thresholds only false positives grow, so these are the corners of every curve. False positives
    at a threshold t include the defect-free pixels that equal t.
    """

    def __init__(self, maps: np.ndarray, masks: np.ndarray) -> None:
        maps, masks = np.asarray(maps), np.asarray(masks, dtype=bool)
        negatives = np.sort(maps[~masks])
        self.negatives = len(negatives)
        scores, weights = _region_pixels(maps, masks)
        order = np.argsort(scores)[::-1]
        scores, weights = scores[order], weights[order]
        last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])  # ties enter together
        self.thresholds = scores[last]
        self.tp = last + 1.0
        self.pro = np.minimum(np.cumsum(weights, dtype=np.float64)[last], 1.0)
        self.fp = self.negatives - np.searchsorted(negatives, self.thresholds, side="left").astype(np.float64)
        self.fp_above = self.negatives - np.searchsorted(negatives, self.thresholds, side="right").astype(np.float64)
        self.positives = float(len(scores))

    @property
    def fpr(self) -> np.ndarray:
        return self.fp / self.negatives

    def auroc(self) -> float:
        """P(defect > defect-free) + P(equal) / 2 over all pairs of pixels (Mann-Whitney)."""
        own = np.diff(self.tp, prepend=0.0)
        beaten = self.negatives - (self.fp + self.fp_above) / 2
        return float((own * beaten).sum() / (self.positives * self.negatives))

    def average_precision(self) -> float:
        """Sum of precision times the step in recall, as scikit-learn defines it."""
        own = np.diff(self.tp, prepend=0.0)
        return float((own * self.tp / (self.tp + self.fp)).sum() / self.positives)

    def aupro(self, limit: float) -> float:
        """Trapezoids under (fpr, pro) up to ``limit``, over ``limit``.

        From one corner to the next, the curve first runs level while defect-free pixels between the two scores
        enter, then to the corner while pixels of that very score enter (a straight line, as ties demand).
        """
        before = np.r_[0.0, self.pro[:-1]]
        x = np.r_[0.0, np.stack([self.fp_above / self.negatives, self.fpr], axis=1).ravel(), 1.0]
        y = np.r_[0.0, np.stack([before, self.pro], axis=1).ravel(), 1.0]
        inside = int(np.searchsorted(x, limit, side="right"))
        at_limit = np.interp(limit, x[inside - 1 : inside + 1], y[inside - 1 : inside + 1])
        x, y = np.r_[x[:inside], limit], np.r_[y[:inside], at_limit]
        return float(np.trapezoid(y, x) / limit)


def _region_pixels(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all defect pixels, and the weight 1 / (pixels of its region x number of regions) of each."""
    scores, sizes, regions = [], [], 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        labels, count = ndimage.label(mask[box], structure=EIGHT)
        own = labels[mask[box]]
        scores.append(anomaly_map[box][mask[box]])
        sizes.append(np.bincount(own, minlength=count + 1)[own])
        regions += count
    return np.concatenate(scores), 1.0 / (np.concatenate(sizes) * regions)


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} differ in shape")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity")


def _defined(maps: np.ndarray, masks: np.ndarray) -> bool:
    maps, masks = np.asarray(maps), np.asarray(masks)
    if masks.dtype != bool and not np.isin(masks, (0, 1)).all():
        raise ValueError("masks hold values other than 0 and 1")
    _check(maps, masks)
    return bool(masks.any()) and not bool(masks.all())
