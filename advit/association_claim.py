"""Claim C1 in numbers: do defect patches associate nearer, and is their discrepancy lower, than normal ones?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import nn

from advit.analysis import defect_share, patch_groups
from advit.cache import ImageCache
from advit.explain import association_view, reach
from advit.samples import Sample
from advit.stats import superiority, verdict

Groups = tuple[list[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class HeadScores:
    """``discrepancy`` in nats and ``reach (n, L, M, g, g)`` of n test images, and the defect's ``share (n, g, g)``.

    Of the plain images, no patch hidden; ``reach`` is that of the series-association, see :func:`advit.explain.reach`.
    ``is_anomalous (n,)``: all other images are free of defects.
    """

    discrepancy: np.ndarray
    reach: np.ndarray
    share: np.ndarray
    is_anomalous: np.ndarray

    def on_patches(self, name: str, layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Values of every patch ``(n, g, g)``; None averages over layers or heads."""
        values = getattr(self, name)
        values = values.mean(axis=1) if layer is None else values[:, layer]
        return values.mean(axis=1) if head is None else values[:, head]

    def groups(self, name: str, layer: int | None = None, head: int | None = None) -> Groups:
        """Values on defect and on normal patches, one array per anomalous image."""
        return patch_groups({name: self.on_patches(name, layer, head), "defect_share": self.share}, name)


def head_scores(network: nn.Module, samples: Sequence[Sample], cache: ImageCache) -> HeadScores | None:
    """Look at every test image that is defect-free or has a mask; None if none has one.

    Test: tests/test_association_claim.py
    """
    grid, found = network.config.grid, []
    chosen = [i for i, s in enumerate(samples) if not s.is_anomalous or s.mask is not None]
    anomalous = np.array([samples[i].is_anomalous for i in chosen], dtype=bool)
    if not anomalous.any():
        return None
    for i in chosen:
        view = association_view(network, cache[i])
        found.append((view.discrepancy, reach(view.series, grid)))
    on_grid = [np.stack(v).reshape(len(chosen), *v[0].shape[:2], grid, grid) for v in zip(*found, strict=True)]
    return HeadScores(*on_grid, share=defect_share(tuple(samples), cache, grid)[chosen], is_anomalous=anomalous)


def measures(patches: Mapping[str, np.ndarray], heads: HeadScores) -> dict[str, Groups]:
    """What C1 says should be lower on defect patches, by name: groups as of :func:`advit.analysis.patch_groups`.

    ``AD``: the discrepancy that is scored. ``reach``: how far the series-association looks, mean over layers and heads.
    ``..., place removed``: less the mean over defect-free test images at the same place, since patches in a corner
    differ from those in the middle whatever they hold (only if there are such images).

    Args:
        patches: of one run's test images, as :func:`advit.analysis.analyse` returns them.
        heads: the same network's.

    Test: tests/test_association_claim.py
    """
    found: dict[str, Groups] = {}
    for name, values, share, anomalous in (
        ("AD", patches["discrepancy"], patches["defect_share"], patches["is_anomalous"]),
        ("reach", heads.on_patches("reach"), heads.share, heads.is_anomalous),
    ):
        values = values.astype(np.float64)
        found[name] = patch_groups({name: values, "defect_share": share}, name)
        if not anomalous.all():
            placed = values - values[~anomalous].mean(axis=0)
            found[f"{name}, place removed"] = patch_groups({name: placed, "defect_share": share}, name)
    return found


def claim_rows(found: Mapping[str, Groups], **keys: object) -> pd.DataFrame:
    """One row per measure: patches, means over patches, P(defect < normal) with its interval, and the verdict.

    Args:
        keys: first columns, for instance the category and the seed.

    Test: tests/test_association_claim.py
    """
    rows = []
    for name, (defect, normal) in found.items():
        estimate = superiority(defect, normal)
        both = [np.concatenate(g) if g else np.empty(0) for g in (defect, normal)]
        means = [round(float(g.mean()), 3) + 0.0 if len(g) else np.nan for g in both]
        rows.append({
            **keys, "measure": name, "defect patches": len(both[0]), "normal patches": len(both[1]),
            "mean, defect": means[0], "mean, normal": means[1],
            "P(defect < normal)": "-" if estimate is None else estimate.text(),
            "C1": verdict(estimate, null=0.5),
        })  # fmt: skip
    return pd.DataFrame(rows)


def head_effects(heads: HeadScores, name: str = "discrepancy") -> np.ndarray:
    """P(defect < normal) in every layer and head, ``(L, M)``: all of them, so that none is picked.

    Test: tests/test_association_claim.py
    """
    layers, count = heads.discrepancy.shape[1:3]
    found = [[superiority(*heads.groups(name, i, j)) for j in range(count)] for i in range(layers)]
    return np.array([[np.nan if e is None else e.value for e in row] for row in found])
