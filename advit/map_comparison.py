"""Which kind of map, conditioning or number of Gaussians is better: tables of means and of paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from advit.evaluation import IMAGE_KEYS, PIXEL_KEYS
from advit.stats import paired, verdict
from advit.tables import FULL_NAMES

KEYS = (*IMAGE_KEYS, *PIXEL_KEYS)
COMPARED = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.3")


def kinds_table(runs: Iterable) -> pd.DataFrame:
    """One row per run and kind of map: ``variant`` (the kind), ``category``, ``seed`` and the seven metrics.

    Args:
        runs: of :meth:`advit.study.Study.run`; each record holds the metrics of every kind of map.

    Test: tests/test_map_comparison.py
    """
    rows = [
        {"variant": kind, "category": run.category, "seed": run.seed, **{k: found.get(k) for k in KEYS}}
        for run in runs
        for kind, found in run.record.get("maps", {}).items()
    ]
    return pd.DataFrame(rows, columns=["variant", "category", "seed", *KEYS]).astype(dict.fromkeys(KEYS, float))


def mean_by_variant(table: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Mean of every metric per variant and the columns ``within``, variants in the order in which they come.

    Test: tests/test_map_comparison.py
    """
    order = list(dict.fromkeys(table["variant"]))
    means = table.groupby([*within, "variant"])[list(KEYS)].mean().reset_index()
    return means.sort_values([*within, "variant"], key=lambda c: c.map(order.index) if c.name == "variant" else c,
                             ignore_index=True)  # fmt: skip


def paired_table(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], metrics: Sequence[str] = COMPARED
) -> pd.DataFrame:
    """One row per pair of variants (a, b) and metric: mean of a minus b, interval, its units, verdict.

    ``verdict`` judges "a is better than b". Pairs without a common run have a dash. Test: tests/test_map_comparison.py
    """
    rows = []
    for a, b in pairs:
        for metric in metrics:
            estimate = paired(table, metric, a, b)
            units, text = "-", "-"
            if estimate is not None:  # a value that rounding alone made negative is printed as +0.000
                units = f"{estimate.n} {estimate.unit}"
                text = replace(estimate, value=round(estimate.value, 9) + 0.0).text(sign=True)
            rows.append([f"{a} - {b}", FULL_NAMES[metric], text, units, verdict(estimate)])
    return pd.DataFrame(rows, columns=["comparison", "metric", "difference", "units", "verdict"])
