"""tables.py: what a reader sees of a table, in Markdown, LaTeX and CSV."""

import numpy as np
import pandas as pd

from advit.tables import (
    DECISION_KEYS,
    METRIC_KEYS,
    Table,
    decided,
    decisions,
    markdown_table,
    metrics_table,
    tex,
    with_spread,
)


def records():
    values = dict.fromkeys(METRIC_KEYS, 0.5)
    return [
        {"category": "b", **values}, {"category": "a", **values, "image_auroc": 0.8},
        {"category": "a", **values, "image_auroc": 0.6}, {"category": "c", **dict.fromkeys(METRIC_KEYS)},
    ]  # fmt: skip


def test_metrics_table_averages_seeds_then_categories():
    table = metrics_table(records()).set_index("category")
    assert list(table.index) == ["a", "b", "c", "mean"]
    assert table.loc["a", "image_auroc"] == 0.7 and table.loc["a", "seeds"] == 2
    assert np.isclose(table.loc["a", "image_auroc_sd"], np.std([0.8, 0.6], ddof=1))
    assert np.isclose(table.loc["mean", "image_auroc"], (0.7 + 0.5) / 2)


def test_spread_is_shown_where_there_are_several_seeds_and_a_dash_where_nothing_is():
    shown = with_spread(metrics_table(records())).set_index("category")["image-level AUROC"]
    assert shown.to_dict() == {"a": "0.700 ± 0.141", "b": "0.500", "c": "-", "mean": "0.600"}
    assert markdown_table(metrics_table(records())).count("\n") == 6


def test_markdown_shows_names_as_they_are():
    table = Table(pd.DataFrame({"name": ["<img src=x onerror=alert(1)>", "a|b*c"], "x": [0.12345, None]}), "A & B.")
    text = table._repr_markdown_()
    assert "<img" not in text and "&lt;img" in text and r"a\|b\*c" in text and "A &amp; B." in text
    assert "| 0.123 |" in text and "| - |" in text
    assert repr(table).splitlines()[0] == "A & B."


def test_latex_compiles_in_principle():
    text = Table(pd.DataFrame({"a_b": ["50 % ≤ x"], "y": [1.0]}), "Caption_1").latex()
    assert r"\caption{Caption\_1}" in text and r"50 \% $\leq$ x & 1.000 \\" in text and r"a\_b & y \\" in text
    assert text.count("{") == text.count("}") and tex("\\") == r"\textbackslash{}"


def test_three_files_are_written_with_four_decimals_in_csv(tmp_path):
    Table(pd.DataFrame({"a": ["x"], "b": [0.123456]}), "Caption.").write(tmp_path, "t")
    assert (tmp_path / "t.csv").read_text() == "a,b\nx,0.1235\n"
    assert (tmp_path / "t.md").read_text().startswith("Caption.\n\n| a | b |\n|---|---:|\n")
    assert (tmp_path / "t.tex").exists()


def test_decisions_by_hand():
    """Means over seeds of 1 and 0 of 20, and of 8 and 9 of 10; a floor decides nothing."""
    said = [dict(zip(DECISION_KEYS, n, strict=True)) for n in ((20, 1, 10, 8), (20, 0, 10, 9), (5, 2, 0, 0))]
    rows = pd.DataFrame([
        *({"variant": "base", "category": "gear"} | said[s] for s in (0, 1)),
        {"variant": "base", "category": "nut"} | said[2],
        {"variant": "floor", "category": "gear"},
    ])  # fmt: skip
    assert decisions(rows).values.tolist() == [
        ["gear", "base", "0.5 of 20 (2.5%)", "8.5 of 10 (85.0%)"], ["nut", "base", "2 of 5 (40.0%)", "-"],
    ]  # fmt: skip


def test_a_run_without_test_images_decides_nothing():
    said = decided({"decisions": {"good": 2, "false_alarms": 0, "anomalous": 3, "found": 1}})
    assert list(said) == list(DECISION_KEYS) and list(said.values()) == [2, 0, 3, 1]
    nothing = decided({"image_auroc": None})
    assert list(nothing) == list(DECISION_KEYS) and set(nothing.values()) == {None}
    assert decisions(pd.DataFrame([{"variant": "base", "category": "gear", **nothing}])).empty
