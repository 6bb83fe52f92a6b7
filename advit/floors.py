"""The classical floors under the same metrics, computed once per data set and stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from advit.baselines import METHODS
from advit.cache import ImageCache
from advit.evaluation import all_metrics
from advit.files import exclusive, write_json
from advit.samples import Category
from advit.store import code_digest, content_key
from advit.tables import METRIC_KEYS


def floor_table(category: Category, digest: str, size: int, store: Path, progress: bool = False) -> pd.DataFrame:
    """One row per method of :data:`advit.baselines.METHODS`: variant (its name), category, seed 0 and seven metrics.

    Images are ``size`` pixels square; the image score is the maximum of the map. Stored under a key of the data, the
    size and the code.

    Test: tests/test_study.py
    """
    key = content_key({"digest": digest, "size": size, "code": code_digest("floors")})
    path = store / f"{category.name}-floors-{key}.json"
    with exclusive(path.with_name(f".{path.name}.lock")):
        rows = read_rows(path)
        if rows is None:
            rows = compute_rows(category, size, progress)
            write_json(path, rows)
    table = pd.DataFrame(rows, columns=["variant", "category", "seed", *METRIC_KEYS])
    return table.astype({k: float for k in METRIC_KEYS})


def read_rows(path: Path) -> list[dict[str, Any]] | None:
    """Stored rows, or None."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def compute_rows(category: Category, size: int, progress: bool) -> list[dict[str, Any]]:
    """Every method on a category; metrics are None without test images."""
    train, test = ImageCache(category.train, size), ImageCache(category.test, size, mask_size=size)
    rows = []
    for name in tqdm(METHODS, desc=f"floors of {category.name}", unit="method", disable=not progress):
        metrics: dict[str, Any] = dict.fromkeys(METRIC_KEYS)
        if category.test:
            maps = METHODS[name](train, test)
            masks = np.stack([test.mask(i).numpy() for i in range(len(test))])
            found = all_metrics(maps, maps.max(axis=(1, 2)), category.test, masks)
            metrics = {k: found[k] for k in METRIC_KEYS}
        rows.append({"variant": name, "category": category.name, "seed": 0, **metrics})
    return rows
