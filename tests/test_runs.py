"""The command line from images to files: train, evaluate, localize, and what happens to bad input."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import advit.cli as cli
import advit.config as config
import advit.presets as presets
from advit.calibration import held_out
from advit.data import open_category
from advit.synthetic import write_dataset

TINY = config.with_options(
    presets.PRESETS["quick"],
    dict(image_size=64, patch=8, dim=24, depth=1, heads=3, mlp_dim=32, bottleneck=16, components=2, target_dim=6,
         density_hidden=8, batch_size=4, epochs=2, max_steps=0, evaluation_size=64, precision="float32"),
)  # fmt: skip
FILES = {
    "config.json", "log.jsonl", "checkpoint.safetensors", "calibration.safetensors", "metrics.json", "scores.csv",
    "contact_sheet.png", "example.npz", "training.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(out, 0, categories=["gear", "weave"], image_size=64, n_train=20, n_test_good=3, n_per_defect=1)


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "quick", TINY)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """One finished run on gear."""
    out = tmp_path_factory.mktemp("run") / "gear"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "quick", TINY)
        assert cli.main(["train", "-p", "gear", "--data", str(data), "--out", str(out), "--quiet"]) == 0
    return out


def test_train_writes_every_file_and_metrics_with_provenance(run):
    assert {p.name for p in run.iterdir()} == FILES
    metrics = json.loads((run / "metrics.json").read_text())
    for values in (metrics, *metrics["per_defect"].values()):
        for key in ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05"):
            assert 0 <= values[key] <= 1
    assert set(metrics["per_defect"]) == {"scratch", "stain", "crack", "missing_part", "wrong_colour", "bent_part"}
    assert metrics["images"] == {"train": 20, "test": 9}
    found = metrics["provenance"]
    assert set(found) >= {"commit", "dirty", "versions", "device", "seed", "data_digest", "seconds"}
    assert found["seed"] == 0 and len(found["data_digest"]) == 64 and found["versions"]["torch"]
    with Image.open(run / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 600


def test_scores_csv_agrees_with_the_metrics(run):
    from sklearn.metrics import roc_auc_score

    rows = list(csv.DictReader((run / "scores.csv").open()))
    assert len(rows) == 9
    auroc = roc_auc_score([r["defect"] != "good" for r in rows], [float(r["score"]) for r in rows])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["image_auroc"] == pytest.approx(auroc)
    for r in rows:
        assert r["decision"] == ("anomalous" if float(r["score"]) > float(r["threshold"]) else "good")
    said = [(r["defect"] != "good", r["decision"] == "anomalous") for r in rows]
    expected = {"good": 3, "false_alarms": said.count((False, True)), "anomalous": 6, "found": said.count((True, True))}
    assert metrics["decisions"] == expected


def test_evaluate_gives_the_same_numbers_again(run, data, tmp_path, capsys):
    again = tmp_path / "again"
    assert cli.main(["evaluate", str(run), "--data", str(data), "--out", str(again), "--quiet"]) == 0
    assert "image AUROC" in capsys.readouterr().out
    one, two = (json.loads((d / "metrics.json").read_text()) for d in (run, again))
    for volatile in (one, two):
        del volatile["provenance"]["seconds"]
    assert one == two
    assert two["provenance"]["training"] == json.loads((run / "training.json").read_text())
    assert (run / "scores.csv").read_bytes() == (again / "scores.csv").read_bytes()


def test_two_runs_of_one_seed_are_equal_to_the_bit(run, data, tmp_path):
    assert cli.main(["train", "-p", "gear", "--data", str(data), "--out", str(tmp_path / "r"), "--quiet"]) == 0
    for name in ("checkpoint.safetensors", "calibration.safetensors", "scores.csv", "log.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "r" / name).read_bytes(), name


def test_train_removes_what_a_killed_process_left_in_the_run(run, data, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = tmp_path / "r" / f".checkpoint.safetensors.{process.pid}.tmp.safetensors"
    shutil.copytree(run, tmp_path / "r")
    left.write_bytes(b"half")
    assert cli.main(["train", "-p", "gear", "--data", str(data), "--out", str(left.parent), "--quiet", "--resume"]) == 0
    assert {p.name for p in left.parent.iterdir()} == FILES


def test_localize_writes_maps_in_the_size_of_the_image(run, data, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(data / "gear" / "test" / "crack" / "000.png") as image:
        image.resize((90, 50)).save(folder / "wide.png")
        image.convert("L").save(folder / "grey.png")
    out = tmp_path / "found"
    assert cli.main(["localize", str(run), str(folder), "--out", str(out), "--quiet"]) == 0
    assert {p.name for p in out.iterdir()} == {
        "scores.csv", "wide_map.tiff", "wide_overlay.png", "grey_map.tiff", "grey_overlay.png",
    }  # fmt: skip
    with Image.open(out / "wide_map.tiff") as tiff, Image.open(out / "wide_overlay.png") as picture:
        assert tiff.size == picture.size == (90, 50) and tiff.mode == "F"
        assert np.isfinite(np.asarray(tiff)).all() and np.asarray(tiff).std() > 0
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [r["image"] for r in rows] == ["grey.png", "wide.png"]
    assert "2 anomalous" in capsys.readouterr().out


def test_localize_is_not_confused_by_its_own_results_or_by_names(run, data, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(data / "gear" / "test" / "good" / "000.png", folder / "a.png")
    (folder / "._a.png").write_bytes(b"not an image")
    for _ in range(2):  # the second call finds the first one's results inside the folder
        assert cli.main(["localize", str(run), str(folder), "--out", str(folder / "out"), "--quiet"]) == 0
        assert len(list(csv.DictReader((folder / "out" / "scores.csv").open()))) == 1
    with Image.open(folder / "a.png") as image:
        image.save(folder / "a.jpg")
    assert cli.main(["localize", str(run), str(folder), "--out", str(tmp_path / "o"), "--quiet"]) == 1
    assert "would be saved under one name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(path.name), "cannot decode {}: too many levels of symbolic links."),
        (lambda path: path.symlink_to("/nowhere/b.png"), "cannot decode {}: no such file or directory."),
        (os.mkfifo, "cannot read {}: it is a pipe, a socket or a device."),
    ],
    ids=["loop", "dangling", "pipe"],
)
def test_localize_names_what_cannot_be_opened(run, data, tmp_path, capsys, make, message):
    (tmp_path / "photos").mkdir()
    shutil.copy(data / "gear" / "test" / "good" / "000.png", tmp_path / "photos" / "a.png")
    make(tmp_path / "photos" / "b.png")
    assert cli.main(["localize", str(run), str(tmp_path / "photos"), "--out", str(tmp_path / "o"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"advit: {message.format(tmp_path / 'photos' / 'b.png')} Re") and error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_localize_prints_no_control_characters(run, data, tmp_path, capsys):
    image = tmp_path / "\x1b[31mrot ä.png"
    shutil.copy(data / "gear" / "test" / "good" / "000.png", image)
    assert cli.main(["localize", str(run), str(image), "--out", str(tmp_path / "o"), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("  \\x1b[31mrot ä.png")


def test_localize_scores_a_test_image_as_evaluate_did(run, data, tmp_path):
    image = data / "gear" / "test" / "stain" / "000.png"
    assert cli.main(["localize", str(run), str(image), "--out", str(tmp_path / "o"), "--quiet"]) == 0
    (row,) = csv.DictReader((tmp_path / "o" / "scores.csv").open())
    before = next(r for r in csv.DictReader((run / "scores.csv").open()) if r["image"] == "test/stain/000.png")
    assert float(row["score"]) == pytest.approx(float(before["score"]), abs=2e-4)


def test_localize_decides_at_the_threshold_that_is_asked_for(run, data, tmp_path, capsys):
    image = data / "gear" / "test" / "stain" / "000.png"
    for threshold, decision in (("-1e9", "anomalous"), ("1e9", "good")):
        out = tmp_path / decision
        arguments = ["localize", str(run), str(image), "--out", str(out), "--quiet", f"--threshold={threshold}"]
        assert cli.main(arguments) == 0
        (row,) = csv.DictReader((out / "scores.csv").open())
        assert row["decision"] == decision and float(row["threshold"]) == float(threshold)
    with pytest.raises(SystemExit):
        cli.main(["localize", str(run), str(image), "--out", str(tmp_path / "o"), "--threshold", "nan"])
    assert "argument --threshold: invalid finite value: 'nan'" in capsys.readouterr().err


def test_localize_leaves_nothing_behind_on_a_bad_image(run, data, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(data / "gear" / "test" / "good", folder)
    (folder / "zzz.png").write_bytes(b"no image")
    assert cli.main(["localize", str(run), str(folder), "--out", str(tmp_path / "o"), "--quiet"]) == 1
    assert "zzz.png" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda c: (c / "train" / "good" / "003.png").write_bytes(b""), "003.png"),
        (lambda c: (c / "test" / "crack" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n1234"), "000.png"),
        (lambda c: (c / "ground_truth" / "crack" / "000_mask.png").unlink(), "mask"),
        (lambda c: Image.new("L", (10, 10)).save(c / "ground_truth" / "crack" / "000_mask.png"), "10x10"),
        (lambda c: shutil.rmtree(c / "train" / "good"), "train"),
    ],
)
def test_bad_data_is_named_and_nothing_is_written(data, tmp_path, capsys, break_it, message):
    root = tmp_path / "data"
    shutil.copytree(data / "gear", root / "gear")
    break_it(root / "gear")
    assert cli.main(["train", "-p", "gear", "--data", str(root), "--out", str(tmp_path / "o"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("advit: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "gaer"], "Did you mean 'gear'?"),
        (["-p", "gear", "--preset", "quik"], "Did you mean 'quick'?"),
        (["-p", "gear", "--set", "epoch=3"], "Did you mean 'epochs'?"),
        (["-p", "gear", "--device", "cuda:99"], "--device cuda:99 cannot be used here"),
        ([], "Name a category with -p: gear, weave, or all."),
    ],
)
def test_misspelt_options_are_explained(data, tmp_path, capsys, arguments, message):
    assert cli.main(["train", "--data", str(data), "--out", str(tmp_path / "o"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_missing_root_is_explained(tmp_path, capsys):
    assert cli.main(["train", "-p", "gear", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "o")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_run_is_never_overwritten_by_accident(run, data, capsys):
    before = (run / "checkpoint.safetensors").read_bytes()
    assert cli.main(["train", "-p", "gear", "--data", str(data), "--out", str(run), "--quiet"]) == 1
    assert "already holds a run. Continue it with --resume" in capsys.readouterr().err
    assert cli.main(
        ["train", "-p", "gear", "--data", str(data), "--out", str(run), "--quiet", "--resume", "--seed", "4"]
    ) == 1  # fmt: skip
    assert "seed (there 0, now 4)" in capsys.readouterr().err
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_an_unfinished_run_says_how_to_finish_it(run, data, tmp_path, capsys):
    half = tmp_path / "half"
    shutil.copytree(run, half)
    (half / "calibration.safetensors").unlink()
    assert cli.main(["evaluate", str(half), "--data", str(data)]) == 1
    assert "Repeat its 'advit train' with --resume." in capsys.readouterr().err
    assert cli.main(["train", "-p", "gear", "--data", str(data), "--out", str(half), "--quiet", "--resume"]) == 0
    assert (half / "scores.csv").read_bytes() == (run / "scores.csv").read_bytes()


def test_checkpoint_of_another_config_is_refused(run, data, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    stored = json.loads((other / "config.json").read_text())
    stored["config"]["dim"] = 48
    (other / "config.json").write_text(json.dumps(stored))
    assert cli.main(["evaluate", str(other), "--data", str(data)]) == 1
    assert "holds another run: dim (there 24, now 48)" in capsys.readouterr().err
    for key, value in (("seed", "x"), ("category", 3), ("config", {})):
        (other / "config.json").write_text(json.dumps({**json.loads((run / "config.json").read_text()), key: value}))
        assert cli.main(["evaluate", str(other), "--data", str(data)]) == 1
        assert "config.json" in capsys.readouterr().err
    (other / "config.json").write_text("{")
    assert cli.main(["evaluate", str(other), "--data", str(data)]) == 1
    assert "config.json is damaged" in capsys.readouterr().err


def test_threshold_uses_images_that_were_not_trained_on(run, data):
    from advit.detector import PARTS
    from advit.runs import load_run

    detector, _ = load_run(run, torch.device("cpu"))
    assert detector.config.score in PARTS
    assert len(held_out(20)) == 4
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 2 * 4  # 16 images in batches of 4, twice


def test_several_categories_land_in_folders_of_their_own(data, tmp_path):
    arguments = ["train", "-p", "all", "--data", str(data), "--out", str(tmp_path), "--quiet", "--epochs", "1"]
    assert cli.main(arguments) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"gear", "weave"}
    assert json.loads((tmp_path / "weave" / "metrics.json").read_text())["category"] == "weave"


def test_the_public_computation_trains_and_evaluates_too(data, tmp_path):
    few = tmp_path / "data" / "gear"
    for kind, count in (("train/good", 3), ("test/good", 1), ("test/crack", 1), ("ground_truth/crack", 1)):
        (few / kind).mkdir(parents=True)
        for path in sorted((data / "gear" / kind).iterdir())[:count]:
            shutil.copy(path, few / kind)
    out = tmp_path / "o"
    arguments = ["train", "-p", "gear", "--data", str(few.parent), "--out", str(out), "--quiet", "--epochs", "1"]
    arguments += ["--set", "model=vt_adl", "--set", "minimax=none", "--set", "density_weight=1"]
    assert cli.main(arguments) == 0
    assert json.loads((out / "metrics.json").read_text())["model"] == "vt_adl"
    assert cli.main(["evaluate", str(out), "--data", str(few.parent), "--quiet"]) == 0


def test_a_plain_folder_of_good_images_trains_and_localizes(data, tmp_path, capsys):
    shutil.copytree(data / "gear" / "train" / "good", tmp_path / "root" / "parts")
    out = tmp_path / "o"
    assert cli.main(["train", "-p", "parts", "--data", str(tmp_path / "root"), "--out", str(out), "--quiet"]) == 0
    assert "no test images" in capsys.readouterr().out
    image = data / "gear" / "test" / "crack" / "000.png"
    assert cli.main(["localize", str(out), str(image), "--out", str(tmp_path / "f"), "--quiet"]) == 0


def test_train_says_so_where_photographs_show_more_than_is_looked_at(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "CLOSER", config.with_options(TINY, dict(image_size=128)))
    (tmp_path / "large").mkdir()
    for i, size in enumerate([(64, 64), (160, 200), (300, 160)]):
        Image.new("RGB", size).save(tmp_path / "large" / f"{i}.png")
    large, small = open_category(tmp_path, "large"), open_category(data, "gear")
    cli.print_closer(small, TINY)
    cli.print_closer(large, config.with_options(TINY, dict(image_size=96)))
    assert capsys.readouterr().err == ""
    cli.print_closer(large, TINY)
    said = capsys.readouterr().err
    assert "large has photographs of 160 px, and 64 px are looked at" in said and "at 128 px" in said


@pytest.mark.parametrize(
    "command",
    [[], ["train"], ["evaluate"], ["localize"], ["export"], ["reproduce"], ["study"], ["report"], ["verify"], ["data"]],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_help_options_lists_every_option_and_preset(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help-options"])
    text = capsys.readouterr().out
    assert all(name in text for name in [*config.ADViTConfig.__dataclass_fields__, *presets.PRESETS])
