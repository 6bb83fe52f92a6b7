"""Maps for other people's evaluation: where they lie, what they hold, and an AU-PRO that knows nothing of ours."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from advit import cli
from advit.config import with_options
from advit.data import open_category
from advit.presets import PRESETS
from advit.runs import train_run
from advit.synthetic import write_dataset

TINY = with_options(
    PRESETS["quick"],
    dict(image_size=64, patch=8, dim=24, depth=1, heads=3, mlp_dim=32, bottleneck=16, components=2, target_dim=6,
         density_hidden=8, batch_size=4, epochs=2, max_steps=0, evaluation_size=64, precision="float32"),
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(out, 0, categories=["gear", "weave"], image_size=64, n_train=10, n_test_good=3, n_per_defect=2)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A folder of two runs."""
    out = tmp_path_factory.mktemp("runs")
    for name in ("gear", "weave"):
        train_run(open_category(data, name), TINY, seed=0, out=out / name, device=CPU, progress=False, pictures=False)
    return out


def evaluate_files(dataset, maps, name, limit):
    """AU-PRO and image-level AUROC from the data set's files and the maps' files alone, written from the definition.

    PRO(t): mean over all 8-connected regions of the share of the region at or above t; integrated over the share of
    defect-free pixels at or above t, from 0 to the limit, and divided by it. Pixels of one value are found together.
    """
    free, regions, scores, labels = [], [], [], []
    for image in sorted((dataset / name / "test").glob("*/*")):
        defect = image.parent.name
        with Image.open(maps / name / "test" / defect / f"{image.stem}.tiff") as tiff:
            assert tiff.mode == "F"
            values = np.asarray(tiff, dtype=np.float64)
        truth = np.zeros(values.shape, dtype=bool)
        if defect != "good":
            with Image.open(dataset / name / "ground_truth" / defect / f"{image.stem}_mask.png") as mask:
                truth = np.asarray(mask.convert("L")) > 127
        assert truth.shape == values.shape
        labelled, count = ndimage.label(truth, np.ones((3, 3)))
        free.append(values[~truth])
        regions += [np.sort(values[labelled == i]) for i in range(1, count + 1)]
        scores.append(values.max())
        labels.append(defect != "good")
    free = np.sort(np.concatenate(free))
    thresholds = np.unique(np.concatenate([free, *regions]))[::-1]
    fpr = np.concatenate([[0], 1 - np.searchsorted(free, thresholds) / len(free)])
    pro = np.concatenate([[0], np.mean([1 - np.searchsorted(r, thresholds) / len(r) for r in regions], axis=0)])
    at_limit = np.interp(limit, fpr, pro)
    inside = fpr < limit
    x, y = np.append(fpr[inside], limit), np.append(pro[inside], at_limit)
    return np.trapezoid(y, x) / limit, roc_auc_score(labels, scores)


def test_the_files_give_our_metrics_where_nothing_is_resized(data, runs, tmp_path, capsys):
    """64 pixels everywhere: to 1e-9, from files, by other code."""
    assert cli.main(["export", str(runs), "--out", str(tmp_path / "maps"), "--quiet"]) == 0
    assert "gear             15 maps in" in capsys.readouterr().out
    for name in ("gear", "weave"):
        metrics = json.loads((runs / name / "metrics.json").read_text())
        for limit in (0.3, 0.05):
            found, _ = evaluate_files(data, tmp_path / "maps", name, limit)
            assert found == pytest.approx(metrics[f"aupro_{limit}"], abs=1e-9)


def test_the_image_score_of_the_script_is_the_maximum_of_the_map(data, tmp_path):
    """So is ours if both maps have one unit and one smoothing, and none fades."""
    one_map = {"score_standardise": TINY.standardise, "score_sigma": TINY.map_sigma, "fade": 0.0}
    run, config = tmp_path / "run", with_options(TINY, {"top_share": 0.0, **one_map})
    record = train_run(open_category(data, "gear"), config, seed=0, out=run, device=CPU, progress=False, pictures=False)
    assert cli.main(["export", str(run), "--format", "mvtec", "--out", str(tmp_path / "maps"), "--quiet"]) == 0
    found, auroc = evaluate_files(data, tmp_path / "maps", "gear", 0.3)
    assert auroc == pytest.approx(record["image_auroc"], abs=1e-9)
    assert found == pytest.approx(record["aupro_0.3"], abs=1e-9)


def test_the_files_have_the_images_names_and_sizes(data, runs, tmp_path):
    """Images of 150 x 110 pixels against an evaluation at 64: AU-PRO agrees to 0.03, since masks are not resized."""
    root = tmp_path / "data"
    shutil.copytree(data / "gear", root / "gear")
    for path in (root / "gear").rglob("*.png"):
        with Image.open(path) as picture:
            how = Image.Resampling.NEAREST if "ground_truth" in path.parts else Image.Resampling.BILINEAR
            picture.resize((150, 110), how).save(path)
    maps = tmp_path / "maps"
    assert cli.main(["export", str(runs / "gear"), "--data", str(root), "--out", str(maps), "--quiet"]) == 0
    images = {p.relative_to(root).with_suffix("") for p in (root / "gear/test").rglob("*.png")}
    files = {p.relative_to(maps).with_suffix("") for p in maps.rglob("*") if p.is_file()}
    assert files == images and all(p.suffix == ".tiff" for p in maps.rglob("*") if p.is_file())
    for path in maps.rglob("*.tiff"):
        with Image.open(path) as tiff:
            assert tiff.size == (150, 110) and tiff.mode == "F" and np.isfinite(np.asarray(tiff)).all()
    record = cli.main(["evaluate", str(runs / "gear"), "--data", str(root), "--out", str(tmp_path / "e"), "--quiet"])
    metrics = json.loads((tmp_path / "e/metrics.json").read_text())
    found, _ = evaluate_files(root, maps, "gear", 0.3)
    assert record == 0 and found == pytest.approx(metrics["aupro_0.3"], abs=0.03)


def test_btad_names_become_those_of_mvtec(data, runs, tmp_path):
    root = tmp_path / "data"
    for kind, target in (("train/good", "train/ok"), ("test/good", "test/ok"), ("test/crack", "test/ko"),
                         ("ground_truth/crack", "ground_truth/ko")):  # fmt: skip
        shutil.copytree(data / "gear" / kind, root / "gear" / target)
    assert cli.main(["export", str(runs / "gear"), "--data", str(root), "--out", str(tmp_path / "m"), "--quiet"]) == 0
    assert {p.name for p in (tmp_path / "m/gear/test").iterdir()} == {"good", "ko"}


def test_repeated_it_writes_the_same_bytes(runs, tmp_path):
    for out in ("a", "b", "b"):
        assert cli.main(["export", str(runs / "weave"), "--out", str(tmp_path / out), "--quiet"]) == 0
    one, two = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*.tiff")} for d in (tmp_path / "a", tmp_path / "b"))
    assert one == two and len(one) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}", "--format", "mvtek"], "--format mvtek: known is mvtec. Did you mean 'mvtec'?"),
        (["{tmp}/nowhere"], "nowhere is no run: it has no config.json."),
        (["{tmp}"], "is no run and holds none. Pass an --out folder of 'advit train'."),
        (["{tmp}/twice"], "are of one category. Export them one by one"),
        (["{runs}/gear", "--data", "{tmp}/none"], "none does not exist"),
        (["{tmp}/half"], "was interrupted in step"),
        (["{runs}/gear", "--data", "{tmp}/plain"], "has no test images to export maps of."),
        (["{runs}/gear", "--data", "{tmp}/bad"], "000.png: the file is empty"),
    ],
)
def test_what_cannot_be_exported_is_named(data, runs, tmp_path, capsys, arguments, message):
    for name in ("one", "two"):
        shutil.copytree(runs / "gear", tmp_path / "twice" / name)
    shutil.copytree(runs / "gear", tmp_path / "half")
    (tmp_path / "half/calibration.safetensors").unlink()
    shutil.copytree(data / "gear/train/good", tmp_path / "plain/gear")
    shutil.copytree(data / "gear", tmp_path / "bad/gear")
    (tmp_path / "bad/gear/test/good/000.png").write_bytes(b"")
    if arguments == ["{tmp}"]:
        shutil.rmtree(tmp_path / "half")
    words = [word.format(runs=runs, tmp=tmp_path) for word in arguments]
    assert cli.main(["export", *words, "--out", str(tmp_path / "maps"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("advit: ") and message in error and not (tmp_path / "maps").exists()
