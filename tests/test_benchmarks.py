"""benchmarks/: the opponents compute what ours computes, and the whole runs at tiny sizes."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from advit.filters import FilterBank  # noqa: E402
from advit.losses import ssim  # noqa: E402
from advit.metrics import aupro  # noqa: E402
from advit.networks import patch_scores  # noqa: E402
from benchmarks import attention, growth, metrics, training  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.figure import growth_figure  # noqa: E402
from benchmarks.literal_vt_adl import LiteralVTADL, grouped_ssim, literal_scores  # noqa: E402
from benchmarks.published_attention import equal_smoothing  # noqa: E402
from benchmarks.whole_rows import WholeRows, texture_features  # noqa: E402

PUBLIC = dict(patch=128, dim=16, depth=1, heads=2, mlp_dim=16, components=2, batch_size=1)


def gradients(x, function):
    """What the function returns, and the gradients that it leaves behind."""
    for leaf in x.leaves:
        leaf.grad = None
    value = function(x)
    return value, [leaf.grad for leaf in x.leaves]


def test_the_published_discrepancy_is_ours_up_to_the_smoothings_factor():
    x, factor = attention.inputs(16, 2, 5), 1 - equal_smoothing(16)
    (ours, found), (theirs, expected) = (gradients(x, f) for f in (attention.our_discrepancy, attention.published_both))
    assert ours.item() == pytest.approx(factor * theirs.item(), rel=1e-5)
    assert attention.our_value(x).item() == pytest.approx(factor * attention.published_value(x).item(), rel=1e-5)
    assert found[2] is None and expected[2] is None
    for i in (0, 1, 3):
        assert torch.allclose(found[i], factor * expected[i], rtol=1e-4, atol=1e-5 * expected[i].abs().max().item())


def test_the_published_layer_is_ours():
    x, factor = attention.inputs(16, 2, 5), 1 - equal_smoothing(16)
    out, found = gradients(x, attention.our_attention)
    other, expected = gradients(x, attention.published_attention)
    _, plain = gradients(x, attention.plain_attention)
    assert torch.allclose(out, other, rtol=1e-4, atol=1e-6)
    for mine, theirs, attended in zip(found, expected, plain, strict=True):
        attended = torch.zeros_like(theirs) if attended is None else attended
        assert torch.allclose(mine, attended + factor * (theirs - attended), rtol=1e-4, atol=1e-5)


def test_the_literal_public_computation_is_ours():
    config = training.sized("vt_adl", **PUBLIC)
    network, images = training.network_of(config), training.smooth_images(config, 1)
    literal = LiteralVTADL(network).eval()
    scores = patch_scores(network.eval(), images, wanted=("density",))["density"]
    with torch.no_grad():
        encoded = literal.encode(images)
        assert torch.allclose(literal.patch_nll(encoded), scores, rtol=1e-5)
        made = network.decoder(network.capsule(encoded))
        assert torch.allclose(literal.reconstruct(encoded), made, atol=1e-5)
        assert grouped_ssim(images, made).item() == pytest.approx(ssim(images, made).item(), abs=1e-5)
    maps, _ = literal_scores(literal, images)
    assert maps.shape == (1, 512, 512) and maps[0, 0, 0].item() == pytest.approx(scores[0, 0].item(), rel=1e-5)
    ours, theirs = training.our_steps(network, images), training.literal_steps(network, images)
    for _ in range(2):
        assert ours() == pytest.approx(theirs(), rel=1e-4)


def test_products_with_whole_rows_give_the_bank_s_texture_features():
    made, x = {"image_size": 64, "grid": 8, "levels": 3}, torch.rand(2, 3, 64, 64)
    bank, whole = FilterBank(**made), WholeRows(**made)
    grey = torch.einsum("c,bchw->bhw", bank.opponent[0], x)
    expected = bank(x)[:, :12]
    assert torch.allclose(whole(grey), expected, atol=1e-4)
    assert torch.allclose(texture_features(bank, grey), expected, atol=1e-5)


def test_squashed_votes_of_one_capsule_do_not_depend_on_the_number_of_routings(monkeypatch):
    from benchmarks import literal_vt_adl

    tokens, weight = torch.randn(2, 4, 16), torch.randn(1, 8, 6, 8)
    three = literal_vt_adl.routed_capsule(tokens, weight)
    monkeypatch.setattr(literal_vt_adl, "ROUTINGS", 1)
    assert torch.allclose(literal_vt_adl.routed_capsule(tokens, weight), three)
    linear = F.linear(tokens.flatten(1), weight[0].permute(1, 0, 2).flatten(1))
    assert torch.allclose(F.normalize(three), F.normalize(linear), atol=1e-5)


def test_the_loop_over_thresholds_nears_the_exact_aupro():
    maps, masks = metrics.maps_and_masks(4, 64)
    assert metrics.loop_aupro(maps, masks, 400) == pytest.approx(aupro(maps, masks), abs=0.01)


def test_growth_has_several_labelled_times_in_every_panel_and_none_overlap():
    curves = json.loads((ROOT / "results" / "benchmarks.json").read_text(encoding="utf-8"))["curves"]
    figure = growth_figure(curves)
    figure.canvas.draw()
    for ax in figure.axes:
        low, high = ax.get_ylim()
        labels = [t for t in ax.get_yticklabels() if t.get_text() and low <= t.get_position()[1] <= high]
        assert len(labels) >= 3 and ax.yaxis.get_offset_text().get_text() == ""
        assert all(float(t.get_text()) == pytest.approx(t.get_position()[1]) for t in labels)
        boxes = [t.get_window_extent() for t in labels]
        assert all(below.y1 < above.y0 for below, above in pairwise(boxes))
    titles = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(titles))


def test_growth_names_the_batch_and_the_heads_that_were_measured(monkeypatch):
    made, inputs = [], attention.inputs
    monkeypatch.setattr(attention, "inputs", lambda *args: made.append(inputs(*args)) or made[-1])
    points = {name: [[4, 1.0], [16, 2.0]] for name in growth.by_patches([4], 0, 1)}
    title = growth_figure(dict.fromkeys(("patches", "images", "categories"), points)).axes[0].get_title()
    batch, heads, _, width = made[0].q.shape
    assert title.endswith(f"batch of {batch}, {heads} heads of {width}")


@pytest.mark.slow
def test_all_of_it_runs_and_writes_table_and_figure(tmp_path, capsys):
    main(["--fast", "--results", str(tmp_path), "--figures", str(tmp_path / "figures")])
    found = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    assert set(found) == {"machine", "rows", "curves"}
    assert {"processor", "cores", "threads", "versions", "commit"} <= set(found["machine"])
    gap = next(r for r in found["rows"] if r["measure"].startswith("largest relative gap"))
    assert gap["ours"] < 1e-4
    table = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert all(r["measure"] in table for r in found["rows"]) and len(found["rows"]) > 20
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"growth.png", "growth.svg"}
