"""map_comparison.py: means and paired differences by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from advit.map_comparison import KEYS, kinds_table, mean_by_variant, paired_table


def record(value: float | None) -> dict:
    return {"maps": {kind: dict.fromkeys(KEYS, value) for kind in ("density", "association")}}


def test_kinds_are_rows_and_missing_metrics_nan():
    runs = [SimpleNamespace(category="gear", seed=1, record=record(0.5)),
            SimpleNamespace(category="weave", seed=1, record=record(None)),
            SimpleNamespace(category="none", seed=1, record={})]  # fmt: skip
    table = kinds_table(runs)
    assert table["variant"].tolist() == ["density", "association"] * 2
    assert table["category"].tolist() == ["gear", "gear", "weave", "weave"]
    assert table["pixel_ap"].tolist()[:2] == [0.5, 0.5] and table["pixel_ap"][2:].isna().all()


def example() -> pd.DataFrame:
    rows = [("K=5", "b", 0, 0.8), ("K=5", "a", 0, 0.6), ("K=5", "a", 1, 0.7), ("K=15", "a", 0, 0.9),
            ("K=15", "a", 1, 0.8), ("K=15", "b", 0, 1.0)]  # fmt: skip
    return pd.DataFrame([{"variant": v, "category": c, "seed": s, **dict.fromkeys(KEYS, m)} for v, c, s, m in rows])


def test_means_keep_the_order_of_variants():
    means = mean_by_variant(example(), ["category"])
    assert list(zip(means["category"], means["variant"], strict=True)) == [
        ("a", "K=5"), ("a", "K=15"), ("b", "K=5"), ("b", "K=15")]  # fmt: skip
    assert means["aupro_0.3"].tolist() == pytest.approx([0.65, 0.85, 0.8, 1.0])
    assert mean_by_variant(example(), [])["pixel_ap"].tolist() == pytest.approx([0.7, 0.9])


def test_differences_are_paired():
    table = paired_table(example(), [("K=15", "K=5")], ["aupro_0.3"])
    row = table.iloc[0]
    # a: mean of 0.3 and 0.1; b: 0.2. Two categories give no interval.
    assert (row["comparison"], row["units"], row["difference"]) == ("K=15 - K=5", "2 categories", "+0.200")
    assert row["verdict"] == "not tested on this data"
    one = example()  # the same runs as three seeds of one category
    one.loc[one["category"] == "b", ["category", "seed"]] = ["a", 2]
    row = paired_table(one, [("K=15", "K=5")], ["aupro_0.3"]).iloc[0]
    differences = np.array([0.3, 0.1, 0.2])
    half = 4.302652729911275 * differences.std(ddof=1) / np.sqrt(3)
    assert row["comparison"] == "K=15 - K=5" and row["units"] == "3 seeds"
    assert row["difference"] == f"+0.200 [{0.2 - half:+.3f}, {0.2 + half:+.3f}]"
    assert row["verdict"] == "undecided"


def test_pairs_without_a_common_run():
    row = paired_table(example(), [("K=15", "K=7")], ["pixel_ap"]).iloc[0]
    assert (row["units"], row["difference"], row["verdict"]) == ("-", "-", "not tested on this data")
