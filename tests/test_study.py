"""study.py and floors.py: what a notebook gets, what it shows, and where it writes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import advit.floors as floors_module
from advit.baselines import METHODS
from advit.errors import ConfigError, DataError
from advit.study import open_study
from advit.synthetic import write_dataset
from advit.tables import METRIC_KEYS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(
        out, 0, categories=["gear", "weave"], image_size=64, n_train=6, n_test_good=2, n_per_defect=1
    )  # fmt: skip


@pytest.fixture
def study(root, tmp_path, monkeypatch):
    for name in ("ADVIT_STORE", "ADVIT_RESULTS", "ADVIT_FIGURES"):
        monkeypatch.delenv(name, raising=False)
    return open_study("smoke", root, ["weave"], [1], store=tmp_path / "store")


def test_runs_come_in_order_with_their_files(study):
    runs = study.run("conditioning")
    assert [(r.variant, r.category, r.seed) for r in runs] == [
        ("hidden", "weave", 1), ("hidden, pixels", "weave", 1), ("seen", "weave", 1), ("seen, encoded", "weave", 1)
    ]  # fmt: skip
    first = runs.first()
    assert list(runs.table.columns) == ["variant", "category", "seed", *METRIC_KEYS] and len(runs.table) == 4
    assert runs.table["aupro_0.3"].iloc[0] == first.record["aupro_0.3"]
    assert len(runs.only(variant="seen")) == 1 and runs.variants()[1:] == ["hidden, pixels", "seen", "seen, encoded"]
    patches = first.patches()
    assert patches["density"].shape == patches["defect_share"].shape and first.example() == {}
    assert set(first.detector().standardisers) == {"density", "reconstruction", "discrepancy", "association"}
    assert first.log()["ad_defect"].notna().sum() >= 2
    train, test = study.images("weave", study.profile.base)
    assert len(train) == 6 and test[0].dtype == torch.uint8


def test_floors_are_computed_once(study, monkeypatch):
    table = study.floors()
    assert list(table["variant"]) == list(METHODS) and table["aupro_0.3"].between(0, 1).all()

    def forbidden(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(floors_module, "compute_rows", forbidden)
    assert study.floors().equals(table)


def test_nothing_is_written_unless_asked_for(study, tmp_path):
    shown = study.table(pd.DataFrame({"a": [0.12345]}), "t", "Caption.")
    assert "0.123" in repr(shown)
    png, metadata = study.figure(Figure(figsize=(1, 1)), "f", "a square")._repr_png_()
    assert png[:4] == b"\x89PNG" and metadata == {"alt": "a square"}
    assert not (tmp_path / "results").exists()


def test_tables_and_figures_go_where_the_environment_says(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVIT_RESULTS", str(tmp_path / "r"))
    monkeypatch.setenv("ADVIT_FIGURES", str(tmp_path / "f"))
    monkeypatch.setenv("ADVIT_STORE", str(tmp_path / "s"))
    study = open_study("smoke", root)
    assert (study.categories, study.seeds, study.store) == (["gear", "weave"], (0,), tmp_path / "s")
    study.table(pd.DataFrame({"a": [1.0]}), "t", "Caption.")
    study.figure(Figure(figsize=(1, 1)), "f", "a square")
    assert {p.name for p in (tmp_path / "r/tables").iterdir()} == {"t.csv", "t.md", "t.tex"}
    assert {p.name for p in (tmp_path / "f").iterdir()} == {"f.png", "f.svg"}


def test_a_category_without_test_images_has_empty_metrics(root, tmp_path):
    plain = tmp_path / "plain"
    (plain / "things").mkdir(parents=True)
    for path in (root / "weave/train/good").iterdir():
        (plain / "things" / path.name).write_bytes(path.read_bytes())
    study = open_study("smoke", plain, store=tmp_path / "store")
    run = study.run("main").first()
    assert run.patches() == {} and np.isnan(study.run("main").table["aupro_0.3"]).all()
    assert study.run("main").decisions["false_alarms"].isna().all()  # and notebook 06 goes on
    assert study.floors()["aupro_0.3"].isna().all()
    assert json.loads((run.folder / "metrics.json").read_text())["images"]["test"] == 0


def test_wrong_parameters_say_what_is_right(root, study):
    with pytest.raises(DataError, match=r"No category 'gaer' in .*: gear, weave\. Did you mean 'gear'"):
        open_study("smoke", root, ["gaer"])
    with pytest.raises(ConfigError, match="Unknown profile 'smok'"):
        open_study("smok")
    with pytest.raises(ConfigError, match="must be whole numbers, zero or more"):
        open_study("smoke", root, [], [-1])
    with pytest.raises(ConfigError, match=r"No experiment 'nois': .* Did you mean 'noise'"):
        study.specs("nois")
