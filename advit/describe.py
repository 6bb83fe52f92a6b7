"""What a data set holds, in numbers: counts, sizes of defects, and what the position of a pixel explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import label

from advit.baselines import finished, greys, moments
from advit.cache import ImageCache
from advit.evaluation import all_metrics
from advit.images import read_image, read_mask
from advit.metrics import EIGHT_CONNECTED
from advit.samples import Category, Sample
from advit.tables import METRIC_KEYS


def counts(categories: Sequence[Category]) -> pd.DataFrame:
    """Images per category, split and kind, and how many of them have a mask; in the order of the samples.

    Test: tests/test_describe.py
    """
    rows = [
        {"category": c.name, "split": split, "kind": s.defect, "images": 1, "masks": int(s.mask is not None)}
        for c in categories
        for split, samples in (("train", c.train), ("test", c.test))
        for s in samples
    ]
    table = pd.DataFrame(rows, columns=["category", "split", "kind", "images", "masks"])
    return table.groupby(["category", "split", "kind"], sort=False, as_index=False).sum()


def defect_sizes(category: Category) -> pd.DataFrame:
    """One row per anomalous test image: kind, name, share of its pixels that are defect, connected regions.

    At the mask's own size; regions are 8-connected, as in AU-PRO. Both are NaN where there is no mask.
    Test: tests/test_describe.py
    """
    rows = []
    for sample in (s for s in category.test if s.is_anomalous):
        row = {"category": category.name, "kind": sample.defect, "image": sample.path.stem}
        if sample.mask is not None:
            mask = read_mask(sample.mask).numpy()
            row |= {"share": float(mask.mean()), "regions": float(label(mask, EIGHT_CONNECTED)[1])}
        rows.append(row)
    return pd.DataFrame(rows, columns=["category", "kind", "image", "share", "regions"])


def typical_samples(category: Category, sizes: pd.DataFrame) -> list[tuple[str, Sample]]:
    """A defect-free test image, else a training image, and of each kind the image whose defect has the median size.

    ``sizes``: :func:`defect_sizes` of the category. Without masks the first image of the kind is taken.
    Test: tests/test_describe.py
    """
    good = next(s for s in (*category.test, *category.train) if not s.is_anomalous)
    chosen = [("good", good)]
    for kind, rows in sizes.groupby("kind", sort=True):
        known = rows.dropna(subset="share").sort_values("share", kind="stable")
        name = (known if len(known) else rows)["image"].iloc[max(len(known) - 1, 0) // 2]
        chosen += [(str(kind), s) for s in category.test if (s.defect, s.path.stem) == (kind, name)]
    return chosen


def examples(category: Category, sizes: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """:func:`typical_samples`, read: kind, image ``(h, w, 3)`` uint8, mask ``(h, w)`` bool, empty if there is none."""
    found = []
    for kind, sample in typical_samples(category, sizes):
        image = np.asarray(read_image(sample.path)).transpose(1, 2, 0)
        size = image.shape[:2]
        mask = np.zeros(size, bool) if sample.mask is None else np.asarray(read_mask(sample.mask, size)) > 0
        found.append((kind, image, mask))
    return found


def size_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """:func:`defect_sizes` by category and kind: images, share of the image in percent, mean number of regions.

    Test: tests/test_describe.py
    """
    groups = sizes.assign(share=100 * sizes["share"]).groupby(["category", "kind"], sort=True)
    columns = {
        "images": ("image", "size"), "median %": ("share", "median"), "smallest %": ("share", "min"),
        "largest %": ("share", "max"), "regions per image": ("regions", "mean"),
    }  # fmt: skip
    return groups.agg(**columns).reset_index()


def bars_to_beat(floors: pd.DataFrame, full_names: Mapping[str, str]) -> pd.DataFrame:
    """For each metric and category two bars: the floor of the best mean over categories, and the best floor there.

    Args:
        floors: ``variant``, ``category`` and the metrics, one row each.
        full_names: the metrics wanted -> their names in full.

    Returns:
        ``metric, category, one for all, reaches, best here, reaches at best``; a last row per metric has the means.
        Metrics that are undefined in a category are left out there.

    Test: tests/test_describe.py
    """
    rows = []
    for key, metric in full_names.items():
        values = floors.pivot(index="category", columns="variant", values=key).dropna(how="all")
        values = values[[v for v in dict.fromkeys(floors["variant"]) if v in values]]
        if values.empty:
            continue
        one = values.mean().idxmax()
        for category, row in values.iterrows():
            rows.append((metric, category, one, row[one], row.idxmax(), row.max()))
        if len(values) > 1:
            rows.append((metric, "mean", one, values[one].mean(), "each its best", values.max(axis=1).mean()))
    return pd.DataFrame(rows, columns=["metric", "category", "one for all", "reaches", "best here", "reaches at best"])


@dataclass(frozen=True)
class Position:
    """Grey values of the training images at each pixel: ``mean`` and ``sd`` ``(size, size)``, and what they explain.

    ``share``: the part of the variance of grey values that the pixel's position explains, in [0, 1]; near 0 for a
    texture, near 1 for an object that always lies the same way. A round object in any rotation lies between.
    """

    mean: np.ndarray
    sd: np.ndarray
    share: float


def position_statistics(train: ImageCache) -> Position:
    """share = between / (between + within): variance of the pixels' means, and mean of the pixels' variances.

    Means of n images hold 1/n of the variance within a pixel, which is taken off ``between``: the definition of
    :func:`advit.calibration.fit_standardiser`, for grey values instead of scores, in one pass over the images.
    Test: tests/test_describe.py
    """
    mean, variance, n = moments(greys(train))
    within = float(variance.mean())
    between = max(0.0, float(mean.var()) - within / (n - 1)) if n > 1 else 0.0
    return Position(mean, np.sqrt(variance), between / (between + within) if between > 0 else 0.0)


def blind_metrics(position: Position, test: ImageCache) -> dict[str, float]:
    """Metrics of a map that never looks at the test image: the training images' sd per pixel, smoothed.

    Whatever it reaches comes from where defects lie. Every image has the same score, so image-level AUROC is 0.5
    exactly; pixel-level AUROC and AU-PRO are above 0.5 and limit / 2 where defects lie on what varies anyway.
    NaN where undefined. Test: tests/test_describe.py
    """
    if not len(test):
        return dict.fromkeys(METRIC_KEYS, np.nan)
    fixed = finished(position.sd, len(position.sd))
    masks = np.stack([test.mask(i).numpy() for i in range(len(test))])
    maps = np.broadcast_to(fixed, masks.shape)
    found = all_metrics(maps, np.full(len(masks), fixed.max()), test.samples, masks)
    return {k: np.nan if found[k] is None else found[k] for k in METRIC_KEYS}
