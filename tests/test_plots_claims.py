"""plots_claims.py: figures show the numbers they are given."""

import numpy as np
import pandas as pd
import pytest

from advit.plots import settle
from advit.plots_claims import (
    claims_figure,
    comparison_figure,
    curves_figure,
    gradients_figure,
    pairs_figure,
    sweep_figure,
)
from advit.stats import AGAINST, NEGLIGIBLE, SUPPORTED, UNDECIDED, UNTESTED


def curve(offset):
    step = np.arange(5)
    return pd.DataFrame({"step": step, "mean": step + offset, "low": step, "high": step + 2 * offset})


def test_curves_have_a_panel_per_quantity_and_a_line_per_variant():
    figure = curves_figure({"nats": {"a": curve(1), "b": curve(2)}, "MSE": {"a": curve(3), "b": curve(4)}}, "step")
    assert [ax.get_title() for ax in figure.axes] == ["nats", "MSE"] and figure.get_supxlabel() == "step"
    assert [line.get_ydata()[0] for line in figure.axes[1].lines] == [3, 4]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]


def test_zero_gradients_are_written_out():
    table = pd.DataFrame({"phase": ["minimise", "maximise"], "prior": [2.0, 0.0], "series": [0.0, 0.5]})
    ax = gradients_figure(table).axes[0]
    assert sorted(t.get_text() for t in ax.texts) == ["0", "0", "0.5", "2"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["prior", "series"]


def test_every_pair_is_a_difference_and_the_mean_is_that_of_the_categories():
    table = pd.DataFrame({"category": [*"aab"], "seed": [0, 1, 0], "off": [0.1, 0.2, 0.6], "on": [0.2, 0.3, 0.4]})
    figure = pairs_figure({"AU-PRO": table}, "off", "on", "on minus off")
    ax = figure.axes[0]
    drawn = [list(line.get_xdata()) for line in ax.lines[:3]]
    for found, expected in zip(drawn, ([0.1, 0.1], [-0.2], [-0.05]), strict=True):
        assert found == pytest.approx(expected)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "mean: −0.0500"]
    assert figure.get_supxlabel() == "on minus off; grey: below 0.02"


def test_a_sweep_shows_every_run_and_joins_means():
    table = pd.DataFrame({"x": [0, 0, 0.5], "category": "a", "value": [0.2, 0.4, 0.5]})
    ax = sweep_figure({"AU-PRO": table}, "sd").axes[0]
    assert list(ax.lines[0].get_ydata()) == [0.2, 0.4, 0.5]
    assert list(ax.lines[1].get_ydata()) == pytest.approx([0.3, 0.5])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.5"]


def test_methods_are_compared_by_their_means():
    rows = [("ADViT", "a", 0.4), ("ADViT", "a", 0.6), ("z", "a", 0.3), ("ADViT", "b", 0.9)]
    figure = comparison_figure(pd.DataFrame(rows, columns=["variant", "category", "m"]), {"m": "metric"})
    marks = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    assert figure.axes[0].get_xlim()[1] == 1.05
    rows = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert rows["ADViT"] == pytest.approx([-0.2, 0.8]) and rows["z"] == pytest.approx([0.2, 1.2])  # none hides another
    assert list(marks["ADViT"]) == pytest.approx([0.5, 0.9]) and marks["z"][0] == 0.3 and np.isnan(marks["z"][1])


def test_a_claim_without_interval_or_value_is_still_there():
    values = np.array([[0.1, 0.05, 0.2], [0.3, np.nan, np.nan], [np.nan] * 3])
    ax = claims_figure(["one", "two", "three"], values, [SUPPORTED, UNTESTED, UNTESTED]).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["one", "two", "three"]
    assert [t.get_text() for t in ax.texts] == ["no estimate"]
    assert list(ax.lines[0].get_xdata()) == [0.05, 0.2]


def test_every_verdict_has_its_own_mark_and_a_word_in_the_legend():
    verdicts = [SUPPORTED, AGAINST, UNDECIDED, NEGLIGIBLE, UNTESTED]
    values = np.array([[0.1, np.nan, np.nan]] * 5)
    figure = claims_figure([*"abcde"], values, verdicts)
    marks = [(line.get_marker(), line.get_color()) for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert len({m for m, _ in marks}) == len({c for _, c in marks}) == 5
    legend = figure.legends[0]
    assert [(h.get_marker(), h.get_color()) for h in legend.legend_handles[:5]] == marks
    words = ["supported", "the opposite", "undecided", "no difference (below 0.02)", "not tested", "95 % interval"]
    assert [t.get_text() for t in legend.get_texts()] == words
    assert "right of 0: for the claim" in figure.axes[0].get_xlabel()
    one = claims_figure(["a"], np.full((1, 3), np.nan), [UNTESTED])
    assert [t.get_text() for t in one.legends[0].get_texts()] == ["not tested", "95 % interval"]
    assert one.axes[0].lines[0].get_marker() == "v" and one.axes[0].texts[0].get_text() == "no estimate"


@pytest.mark.parametrize("count", [1, 23])
def test_legend_and_axis_text_of_the_claims_do_not_overlap(count):
    name = "C3  density map against reconstruction error, ablation"
    figure = settle(claims_figure([name] * count, np.array([[0.1, -0.2, 0.4]] * count), [UNDECIDED] * count))
    figure.canvas.draw()
    page, below = figure.get_window_extent(), figure.legends[0].get_window_extent()
    axes = figure.axes[0].get_tightbbox()
    assert page.y0 <= below.y0 and below.y1 <= axes.y0
    assert page.x0 <= min(below.x0, axes.x0) and max(below.x1, axes.x1) <= page.x1


def test_the_label_below_all_panels_lies_clear_of_the_legend():
    curve = pd.DataFrame({"step": [1, 2], "mean": [1, 2.0], "low": [1, 2.0], "high": [1, 2.0]})
    table = pd.DataFrame({"x": [0, 1], "category": "a", "value": [0.2, 0.4]})
    panels = {"AU-PRO": table, "pixel-level AUROC": table}
    for figure in (curves_figure({"nats": {"a": curve}}, "step"), sweep_figure(panels, "sd of the noise")):
        settle(figure).canvas.draw()
        legend, words = figure.legends[0].get_window_extent(), figure._supxlabel.get_window_extent()
        assert not legend.overlaps(words)
