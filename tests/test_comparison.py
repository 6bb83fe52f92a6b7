"""comparison.py and advit study: names of variants, the table by hand, and one tiny comparison from end to end."""

import json
import math

import pandas as pd
import pytest
import torch

import advit.cli as cli
import advit.comparison as comparison
import advit.presets as presets
from advit.comparison import compare, seeded, summary, variants_of
from advit.config import ADViTConfig, with_options
from advit.errors import AdvitError, ConfigError
from advit.presets import PRESETS
from advit.synthetic import write_dataset
from advit.tables import DECISION_KEYS, METRIC_KEYS

TINY = with_options(
    PRESETS["quick"],
    dict(image_size=32, patch=8, dim=16, depth=1, heads=2, mlp_dim=16, bottleneck=8, components=2, density_hidden=8,
         max_steps=2, epochs=1, batch_size=4, mask_blocks="1,2", evaluation_size=32, precision="float32"),
)  # fmt: skip
CPU = torch.device("cpu")
IMAGE, PIXEL, PRO = "image-level AUROC", "pixel-level AUROC", "AU-PRO (FPR ≤ 0.3)"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(out, 0, categories=["gear"], image_size=64, n_train=12, n_test_good=2, n_per_defect=1)


def run(variant, category, seed, image=math.nan, pixel=math.nan, pro=math.nan, seconds=1.0):
    found = {"image_auroc": image, "pixel_auroc": pixel, "aupro_0.3": pro}
    return {"variant": variant, "category": category, "seed": seed, **found, "seconds": seconds}


def test_variants_are_called_what_they_change():
    found = variants_of(TINY, "tiny", [["components=3"], ["density_score=nll", "mask_draws=2"]])
    assert list(found) == ["tiny", "components=3", "density_score=nll mask_draws=2"]
    assert found["tiny"] == TINY and found["components=3"] == with_options(TINY, {"components": 3})
    assert found["density_score=nll mask_draws=2"] == with_options(TINY, {"density_score": "nll", "mask_draws": 2})
    assert variants_of(TINY, "tiny", []) == {"tiny": TINY}


def test_a_variant_may_start_from_another_preset():
    found = variants_of(TINY, "tiny", [["preset=paper", "epochs=3"], ["preset=vt_adl"]])
    assert found["preset=paper epochs=3"] == ADViTConfig(epochs=3) and found["preset=vt_adl"] == PRESETS["vt_adl"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ([["epoch=3"]], "Unknown option 'epoch'. Did you mean 'epochs'? 'advit train --help-options' lists all."),
        ([["epochs=0"]], "epochs=0: must be above zero."),
        ([["epochs"]], "--set epochs: write it as name=value, for instance --set epochs=50."),
        ([["heads=1"], ["epochs=3"], ["heads=1"]], "--vary heads=1 is given twice."),
        ([["preset=quik"]], "Unknown preset 'quik': choose paper, vt_adl, quick, advit. Did you mean 'quick'?"),
    ],
)
def test_a_wrong_variant_is_named(changes, message):
    with pytest.raises(ConfigError) as error:
        variants_of(TINY, "tiny", changes)
    assert str(error.value) == message


def test_summary_of_one_category_by_hand():
    """Gains of 0.05, 0.04, 0.06: mean 0.05, sd 0.01, and 4.3027 x 0.01 / sqrt(3) = 0.025 either way."""
    rows = pd.DataFrame([
        *(run("base", "gear", s, v, 0.9, seconds=t) for s, v, t in ((0, 0.80, 10), (1, 0.82, 20), (2, 0.84, 33))),
        *(run("other", "gear", s, v, p) for s, v, p in ((2, 0.90, math.nan), (0, 0.85, 0.92), (1, 0.86, 0.94))),
    ])  # fmt: skip
    base, other = summary(rows).to_dict("records")
    assert base == {
        "category": "gear", "variant": "base", IMAGE: "0.820 ± 0.020", PIXEL: "0.900 ± 0.000", PRO: "-",
        f"Δ {IMAGE}": "-", f"Δ {PIXEL}": "-", f"Δ {PRO}": "-", "seconds": "21",
    }  # fmt: skip
    assert other == {
        "category": "gear", "variant": "other", IMAGE: "0.870 ± 0.026", PIXEL: "0.930 ± 0.014", PRO: "-",
        f"Δ {IMAGE}": "+0.050 [+0.025, +0.075]", f"Δ {PIXEL}": "+0.030", f"Δ {PRO}": "-", "seconds": "1",
    }  # fmt: skip


def test_summary_over_categories_by_hand():
    """Over all: mean and sd of the categories' means, and the mean gain; two categories give no interval."""
    rows = pd.DataFrame([
        *(run("base", "a", s, v) for s, v in ((0, 0.5), (1, 0.6))), *(run("base", "b", s, 0.75) for s in (0, 1)),
        *(run("other", "a", s, v) for s, v in ((0, 0.7), (1, 0.8))), *(run("other", "b", s, 0.85) for s in (0, 1)),
    ])  # fmt: skip
    found = summary(rows)
    assert list(zip(found["category"], found["variant"], strict=True)) == [
        (c, v) for c in ("a", "b", "mean") for v in ("base", "other")
    ]
    assert list(found[IMAGE]) == [
        "0.550 ± 0.071", "0.750 ± 0.071", "0.750 ± 0.000", "0.850 ± 0.000", "0.650 ± 0.141", "0.800 ± 0.071",
    ]  # fmt: skip
    assert list(found[f"Δ {IMAGE}"]) == ["-", "+0.200", "-", "+0.100", "-", "+0.150"]


def test_a_single_run_has_no_spread_and_a_missing_metric_is_a_dash():
    found = summary(pd.DataFrame([run("base", "gear", 0, 0.5), run("other", "gear", 0, seconds=None)]))
    assert list(found[IMAGE]) == ["0.500", "-"] and list(found[PRO]) == ["-", "-"]
    assert list(found[f"Δ {IMAGE}"]) == ["-", "-"] and list(found["seconds"]) == ["1", "-"]


def test_a_floor_of_one_seed_is_compared_with_every_seed():
    rows = pd.DataFrame([*(run("base", "a", s, 0.6 + 0.1 * s) for s in range(3)), run("floor", "a", 0, 0.9)])
    again = seeded(rows, "floor")
    assert sorted(again[again["variant"] == "floor"]["seed"]) == [0, 1, 2]
    assert seeded(rows, "base") is rows
    floor = summary(rows).iloc[1]
    assert floor[IMAGE] == "0.900" and floor[f"Δ {IMAGE}"].startswith("+0.200 [")


def spoilt(root, folder):
    """A copy of a root whose test images and masks are no images."""
    for path in sorted(p for p in root.rglob("*.png")):
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes() if "train" in path.parts else b"no image")
    return folder


def test_variants_are_trained_once_and_judged_on_test_images_or_on_pasted_ones(root, tmp_path, monkeypatch):
    variants, store = variants_of(TINY, "tiny", [["components=1"]]), tmp_path / "store"
    how = dict(processes=1, progress=False)
    bad = spoilt(root, tmp_path / "spoilt")
    pasted = compare(bad, ["gear"], variants, [0], store, CPU, pasted=True, **how)  # no test image can be opened
    with pytest.raises(AdvitError, match="gear/test"):
        compare(bad, ["gear"], variants, [0], store, CPU, **how)
    tested = compare(root, ["gear"], variants, [0], store, CPU, **how)
    for rows in (tested, pasted):
        assert list(rows.columns) == ["variant", "category", "seed", *METRIC_KEYS, *DECISION_KEYS, "seconds"]
        assert list(rows["variant"]) == ["tiny", "components=1"] and set(rows["category"]) == {"gear"}
        assert rows[list(METRIC_KEYS)].notna().all(axis=None) and (rows["seconds"] > 0).all()
        good, anomalous = (2, 6) if rows is tested else (2, 12)
        assert (rows["good"] == good).all() and (rows["anomalous"] == anomalous).all()
        assert rows["false_alarms"].between(0, good).all() and rows["found"].between(0, anomalous).all()
    assert not tested[list(METRIC_KEYS)].equals(pasted[list(METRIC_KEYS)])
    records = [json.loads(p.read_text()) for p in store.glob("gear-seed0-*/metrics.json")]
    assert sorted(r["images"]["test"] for r in records) == sorted(
        [len(list((root / "gear/test").rglob("*.png"))), 2 * 7] * 2
    )
    monkeypatch.setattr("advit.store.train_run", lambda *a, **k: pytest.fail("trained again"))
    again = compare(root, ["gear"], variants, [0], store, CPU, pasted=True, **how)
    assert again.equals(pasted)  # nor do test images count
    assert len(list(store.glob("gear-seed0-*/metrics.json"))) == 4


@pytest.mark.parametrize("largest, size", [(32, 256), (512, 512)])
def test_pasted_defects_are_as_large_as_the_closest_look(root, tmp_path, monkeypatch, largest, size):
    class Stop(Exception):
        pass

    def asked(category, store, *, size, progress):
        raise Stop(size)

    monkeypatch.setattr(comparison, "pasted_root", asked)
    variants = {"tiny": TINY, "close": with_options(TINY, {"image_size": largest})}
    with pytest.raises(Stop, match=f"^{size}$"):
        compare(root, ["gear"], variants, [0], tmp_path, CPU, pasted=True)


def test_floors_are_further_variants_of_seed_0(root, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison.Profile, "floor_size", 32)
    monkeypatch.setattr("advit.floors.METHODS", {"nothing": lambda train, test: torch.rand(len(test), 32, 32).numpy()})
    rows = compare(root, ["gear"], {"tiny": TINY}, [3], tmp_path, CPU, floors=True, processes=1, progress=False)
    assert rows[["variant", "seed"]].values.tolist() == [["tiny", 3], ["nothing", 0]]
    assert rows["seconds"].isna().tolist() == [False, True] and rows["aupro_0.3"].notna().all()
    assert list(summary(rows)["seconds"])[1] == "-" and summary(rows)[f"Δ {PRO}"][1] != "-"


def test_the_command_prints_the_table_and_writes_it_with_its_provenance(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(presets.PRESETS, "quick", TINY)
    monkeypatch.setenv("ADVIT_STORE", str(tmp_path / "store"))
    arguments = ["study", "--data", str(root), "-p", "gear", "--vary", "density_score=nll", "--pasted", "--seeds", "4",
                 "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]  # fmt: skip
    monkeypatch.setattr("advit.store.cores", lambda: 1)
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    judged = "judged on defects pasted at 256 px on held-out training images."
    assert lines[0] == f"Variants of preset quick, seeds 4, {judged}"
    assert lines[2].startswith(f"| category | variant | {IMAGE} | {PIXEL} | {PRO} | Δ {IMAGE} |")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[4:6]]
    assert [c[:2] for c in cells] == [["gear", "quick"], ["gear", "density_score=nll"]]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "runs.csv", "provenance.json",
        *(f"{table}.{kind}" for table in ("summary", "decisions") for kind in ("csv", "md", "tex")),
    }  # fmt: skip
    assert any(line.startswith("| gear | quick |") and "%)" in line for line in lines[7:])
    rows = pd.read_csv(tmp_path / "out/runs.csv")
    for i, (name, text) in enumerate(zip(rows["variant"], cells, strict=True)):
        assert name == ["quick", "density_score=nll"][i] and rows["seed"][i] == 4
        assert text[2:5] == [f"{rows[k][i]:.3f}" for k in ("image_auroc", "pixel_auroc", "aupro_0.3")]
    gain = rows["aupro_0.3"][1] - rows["aupro_0.3"][0]
    assert float(cells[1][7]) == pytest.approx(gain, abs=6e-4) and cells[0][7] == "-"
    found = json.loads((tmp_path / "out/provenance.json").read_text())
    assert found["pasted"] is True and found["pasted_size"] == 256
    assert found["seeds"] == [4] and found["versions"]["torch"]
    assert found["data"] == root.resolve().name
    trained = {json.loads(p.read_text())["device"] for p in (tmp_path / "store").glob("*/training.json")}
    assert trained == {found["device"]}  # the threads of the runs, not those of the command
    assert found["variants"]["density_score=nll"] == with_options(TINY, {"density_score": "nll"}).to_dict()


def test_the_command_names_what_is_wrong(root, capsys):
    assert cli.main(["study", "--data", str(root), "--vary", "epoch=3", "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("advit: Unknown option 'epoch'. Did you mean 'epochs'?")
