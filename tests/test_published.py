"""published.py: published figures stay as printed, ours stand in columns of their own."""

import pandas as pd

from advit.published import published, published_beside
from advit.tables import FULL_NAMES

OURS = f"ADViT here: {FULL_NAMES['aupro_0.3']}"


def test_printed_means_are_those_of_the_printed_values():
    table = published("vt_adl_mvtec").set_index("category")
    assert len(table) == 16
    off = (table.drop("mean").mean() - table.loc["mean"]).abs()
    assert off["VT-ADL"] < 0.001 and off["Uninformed-Students"] < 0.001


def test_a_category_that_was_not_run_is_empty_and_the_mean_too():
    runs = pd.DataFrame(
        {"category": ["bottle", "bottle", "gear"], "pixel_auroc": [0.9, 0.8, 0.1], "aupro_0.3": [0.7, 0.6, 0.1]}
    )
    table = published_beside(runs).set_index("category")
    assert round(table.loc["bottle", OURS], 12) == 0.65 and table[OURS].notna().sum() == 1
    assert table.loc["bottle", "VT-ADL (printed)"] == 0.949 and "gear" not in table.index


def test_the_mean_is_shown_when_every_category_was_run():
    names = [c for c in published("vt_adl_mvtec")["category"] if c != "mean"]
    runs = pd.DataFrame({"category": names, "pixel_auroc": 0.5, "aupro_0.3": range(15)})
    assert published_beside(runs).set_index("category").loc["mean", OURS] == 7
