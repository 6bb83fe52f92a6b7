"""Statistics of defect-free training images that make scores comparable, and the decision threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_IMAGES = 5  # fewer say nothing about a position's sd
LEAST_SD = 0.3  # of the pooled sd: no position is judged more than about three times as finely as the average one


@dataclass(frozen=True)
class Standardiser:
    """Map x -> z = (x - mean) / sd, or |z| if ``two_sided``; mean and sd ``(G, G)`` of defect-free training maps.

    ``position_share``: how much of the training scores' variance the position explains, in [0, 1].
    """

    mean: np.ndarray
    sd: np.ndarray
    position_share: float
    two_sided: bool

    def __call__(self, maps: np.ndarray) -> np.ndarray:
        """Standardise maps ``(n, G, G)``; float32, high where abnormal if high scores are."""
        z = ((maps - self.mean) / self.sd).astype(np.float32)
        return np.abs(z) if self.two_sided else z


def fit_standardiser(maps: np.ndarray, how: str) -> Standardiser:
    """Statistics of the maps ``(n, G, G)`` of defect-free training images.

    With ``how="position"``, training images decide between two standards, by the share of the scores' variance that
    the position explains, w = between / (between + within):

    - w > 1/2, an aligned object: each position has its own mean and sd, and the result is two-sided, |z|. What is to
      be expected at a position is known, so a score far below it is as untypical as one far above: a smooth stain
      where there always was texture is likelier than anything seen there (typicality, Nalisnick et al. 2019).
    - w <= 1/2, a texture or an unaligned object: one mean and sd for all, one-sided. A smooth patch is then no less
      typical than a textured one.

    With ``how="shrunk"`` every position has its own mean and sd as far as the images support that, one-sided:
    mean = m + a (m_u - m) and sd^2 = v + b (v_u - v), m and v over all positions, m_u and v_u at one. a and b are the
    shares of the variance of m_u and of v_u between positions that n images do not explain by chance (empirical Bayes):
    near 1 for an aligned object, near 0 for a texture, and small where images are few.

    ``how="image"`` is always the second, "none" is x -> x. A position's sd is at least LEAST_SD of the pooled one.

    Chosen: the paper is silent; scores of different units, and positions of different content, need a common unit.
    Test: tests/test_calibration.py
    """
    maps = maps.astype(np.float64)
    shape = maps.shape[1:]
    if how == "none":
        return Standardiser(np.zeros(shape), np.ones(shape), 0.0, two_sided=False)
    mean, within = maps.mean(axis=0), maps.var(axis=0)
    # The variance of means of n images holds 1/n of the variance within a position: take it off.
    n = len(maps)
    between = max(0.0, mean.var() - within.mean() / (n - 1)) if n > 1 else 0.0
    share = float(between / (between + within.mean())) if between > 0 else 0.0
    if how == "position" and share > 0.5 and n >= LEAST_IMAGES:
        floor = max(LEAST_SD * np.sqrt(within.mean()), 1e-12)
        return Standardiser(mean, np.maximum(np.sqrt(within), floor), share, two_sided=True)
    if how == "shrunk" and n >= LEAST_IMAGES:
        variance, chance = within.mean(), 2 * within.mean() ** 2 / (n - 1)  # of the variance of n normal values
        a = share_beyond_chance(mean.var(), variance / (n - 1))
        b = share_beyond_chance(within.var(), chance)
        sd = np.sqrt(np.maximum(variance + b * (within - variance), LEAST_SD**2 * variance))
        centre = maps.mean() + a * (mean - maps.mean())
        return Standardiser(centre, np.maximum(sd, 1e-12), share, two_sided=False)
    sd = max(float(maps.std()), 1e-12)
    return Standardiser(np.full(shape, maps.mean()), np.full(shape, sd), share, two_sided=False)


def share_beyond_chance(found: float, chance: float) -> float:
    """Share of a variance between positions that is more than chance, in [0, 1]."""
    return max(0.0, 1 - chance / found) if found > 0 else 0.0


def held_out(count: int) -> list[int]:
    """Indices of the training images kept out of training, to set the threshold on: every tenth, at least four.

    With fewer than 20 images none is kept out. See :func:`advit.detector.judged_as_new`.
    """
    if count < 20:
        return []
    step = min(10, count // 4)
    return list(range(step - 1, count, step))


def decision_threshold(scores: np.ndarray, false_alarms: float = 0.01) -> float:
    """Image score that a new defect-free image exceeds with probability ``false_alarms``.

    t = mean + g / z t_{n-1} sd sqrt(1 + 1/n), t_{n-1} and z the quantiles 1 - false_alarms of Student and Gauss, g that
    of a Gumbel variable of mean 0 and sd 1: an image score is the largest of many values, and such maxima tend to a
    Gumbel law (Fisher and Tippett 1928), whose upper tail is longer than a Gaussian one. Student's quantile allows for
    a mean and sd that are known from n scores only. An empirical quantile of 1 % needs hundreds of images.

    Chosen: the paper has no threshold; the public code picks one on test images. Test: tests/test_calibration.py
    """
    n = len(scores)
    if n < 2:
        return float(np.max(scores))
    maxima, share = stats.gumbel_r, 1 - false_alarms
    longer = (maxima.ppf(share) - maxima.mean()) / maxima.std() / stats.norm.ppf(share)
    bound = longer * stats.t.ppf(share, n - 1) * np.std(scores, ddof=1) * np.sqrt(1 + 1 / n)
    return float(np.mean(scores) + bound)
