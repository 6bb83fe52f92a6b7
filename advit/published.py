"""Published figures beside ours; they are data with a citation, never results of this repository."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from advit.tables import FULL_NAMES

FOLDER = Path(__file__).resolve().parents[1] / "results" / "published"


def published(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """A table of ``results/published``: ``vt_adl_mvtec``, ``vt_adl_btad`` or ``vt_adl_gaussians``."""
    return pd.read_csv(folder / f"{name}.csv")


def published_beside(table: pd.DataFrame, folder: Path = FOLDER) -> pd.DataFrame:
    """VT-ADL's table of MVTec AD with our pixel-level AUROC and AU-PRO to 0.3 in columns of their own.

    Args:
        table: of runs, as :attr:`advit.study.Runs.table`; means over seeds are shown. A category that was not run is
            empty, and so is the mean unless all were.

    Test: tests/test_published.py
    """
    printed = published("vt_adl_mvtec", folder)
    printed = printed.rename(columns={c: f"{c} (printed)" for c in printed.columns if c != "category"})
    names = [c for c in printed["category"] if c != "mean"]
    ours = table.groupby("category")[["pixel_auroc", "aupro_0.3"]].mean()
    if set(names) <= set(ours.index):
        ours.loc["mean"] = ours.loc[names].mean()
    for key in ("pixel_auroc", "aupro_0.3"):
        printed[f"ADViT here: {FULL_NAMES[key]}"] = printed["category"].map(ours[key]).astype(float)
    return printed
