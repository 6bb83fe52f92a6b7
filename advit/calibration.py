"""Statistics of defect-free training images that make scores comparable, and the decision threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Standardiser:
    """Map x -> (x - mean) / sd, with mean and sd per position ``(G, G)``, from defect-free training maps.

    ``position_share``: how much of the training scores' variance the position explains, in [0, 1].
    """

    mean: np.ndarray
    sd: np.ndarray
    position_share: float

    def __call__(self, maps: np.ndarray) -> np.ndarray:
        """Standardise maps ``(n, G, G)``; float32."""
        return ((maps - self.mean) / self.sd).astype(np.float32)


def fit_standardiser(maps: np.ndarray, how: str) -> Standardiser:
    """Statistics of the maps ``(n, G, G)`` of defect-free training images.

    With m, s the mean and sd over everything and m_j, s_j those of position j, "position" takes

        mean_j = m + w (m_j - m),   log sd_j = log s_w + w (log s_j - log s_w),

    where w is the share of the variance that the position explains and s_w^2 the variance that is left at w.
    An aligned object has w near 1, so each position is judged by its own history; a texture has w near 0, and
    positions share one standard. w is decided by the training images alone. "image" is w = 0; "none" is x -> x.

    Chosen: the paper is silent; adding maps of different units needs a common one. Test: tests/test_calibration.py
    """
    maps = maps.astype(np.float64)
    if how == "none":
        return Standardiser(np.zeros(maps.shape[1:]), np.ones(maps.shape[1:]), 0.0)
    mean, within = maps.mean(axis=0), maps.var(axis=0)
    # The variance of means of n images holds 1/n of the variance within a position: take it off.
    between = max(0.0, mean.var() - within.mean() / len(maps))
    share = between / (between + within.mean()) if between > 0 else 0.0
    w = share if how == "position" else 0.0
    left = max(np.sqrt(within.mean() + (1 - w) * between), 1e-12)
    sd = np.maximum(np.sqrt(within), 0.05 * left)  # a position that never varied must not divide by zero
    return Standardiser(
        mean=mean.mean() + w * (mean - mean.mean()),
        sd=np.exp((1 - w) * np.log(left) + w * np.log(sd)),
        position_share=float(share),
    )


def held_out(count: int) -> list[int]:
    """Indices of the training images kept out of training, to set the threshold on: every tenth, at least four.

    With fewer than 20 images none is kept out, and the threshold comes from the images trained on.
    """
    if count < 20:
        return []
    step = min(10, count // 4)
    return list(range(step - 1, count, step))


def decision_threshold(scores: np.ndarray, false_alarms: float = 0.01) -> float:
    """Image score that a new defect-free image exceeds with probability ``false_alarms``.

    t = mean + t_{n-1, 1 - false_alarms} sd sqrt(1 + 1/n): the upper prediction bound of n normal scores. An
    empirical quantile of 1 % needs hundreds of images, this bound only a few.

    Chosen: the paper has no threshold; the public code picks one on test images. Test: tests/test_calibration.py
    """
    n = len(scores)
    if n < 2:
        return float(np.max(scores))
    bound = stats.t.ppf(1 - false_alarms, n - 1) * np.std(scores, ddof=1) * np.sqrt(1 + 1 / n)
    return float(np.mean(scores) + bound)
