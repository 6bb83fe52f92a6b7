"""Full disks, read-only folders and data that go away: a clear error, earlier results intact, and --resume works.

Kills at random moments are in tests/kill_often.py, which takes minutes.
"""

import resource
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from unprivileged import as_user

import advit.reproduce  # noqa: F401  (while it may be read: without rights imports fail)
import advit.training as training
from advit import cli
from advit.cache import ImageCache
from advit.checkpoint import load_checkpoint
from advit.config import with_options
from advit.data import open_category
from advit.errors import AdvitError, DataError
from advit.presets import PRESETS
from advit.runs import train_run
from advit.synthetic import write_dataset

TINY = with_options(
    PRESETS["quick"],
    dict(image_size=64, patch=8, dim=24, depth=1, heads=3, mlp_dim=32, bottleneck=16, components=2, target_dim=6,
         density_hidden=8, batch_size=4, epochs=3, max_steps=0, evaluation_size=64, precision="float32"),
)  # fmt: skip
CPU = torch.device("cpu")
SAME = ("config.json", "log.jsonl", "checkpoint.safetensors", "calibration.safetensors", "scores.csv", "example.npz")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(out, 0, categories=["gear"], image_size=64, n_train=10, n_test_good=1, n_per_defect=1)


@pytest.fixture(autouse=True)
def save_often(monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", -1)
    monkeypatch.setitem(PRESETS, "quick", TINY)


def train(data, out, **options):
    return train_run(open_category(data, "gear"), TINY, seed=0, out=out, device=CPU, progress=False, **options)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_SECONDS", -1)
        train(data, out)
    return out


def same(run, whole):
    """Every file equal to the byte, and none left over but what a killed process may leave."""
    for name in SAME:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}


@contextmanager
def file_size_limit(limit):
    """Writing beyond ``limit`` bytes of a file fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [0, 700, 2_000, 10_000, 60_000, 150_000])
def test_writing_that_fails_at_any_size_is_named_and_can_be_resumed(data, whole, tmp_path, limit):
    sizes = {p.name: p.stat().st_size for p in whole.iterdir()}
    run = tmp_path / "run"
    with file_size_limit(limit), pytest.raises(AdvitError, match=r"Cannot write .*run/") as error:
        train(data, run)
    assert "Free some space or choose another folder" in str(error.value) and "\n" not in str(error.value)
    written = {p.name for p in run.iterdir()} if run.exists() else set()
    assert written <= {name for name, size in sizes.items() if size <= limit}, "a file was written that does not fit"
    train(data, run, resume=True)
    same(run, whole)


def test_an_old_result_outlives_a_full_disk(data, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.json").unlink()
    with file_size_limit(1000), pytest.raises(AdvitError, match="Cannot write"):
        train(data, run, resume=True)
    for name in set(SAME) - {"log.jsonl"}:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    train(data, run, resume=True)
    same(run, whole)


@pytest.fixture
def small_disk(tmp_path):
    """Function from kilobytes to a folder on a disk of that size."""
    mounted = []

    def mount(kilobytes):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], capture_output=True
        ) if shutil.which("mount") else None  # fmt: skip
        if done is None or done.returncode:
            pytest.skip("no right to mount a small disk; the test with a limit on file sizes covers most of it")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize("kilobytes", [4, 64, 220, 400, 700])
def test_a_disk_that_is_full(data, whole, small_disk, kilobytes, capsys):
    disk = small_disk(kilobytes)
    run = disk / "run"
    arguments = ["train", "-p", "gear", "--data", str(data), "--out", str(run), "--quiet"]
    assert cli.main([*arguments, "--resume"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("advit: Cannot write") and "No space left" in error and "Traceback" not in error
    if (run / "checkpoint.safetensors").exists():
        load_checkpoint(run / "checkpoint.safetensors")
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert cli.main([*arguments, "--resume"]) == 0
    for name in set(SAME) - {"config.json"}:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("command", ["train", "resume", "localize", "evaluate", "reproduce"])
def test_a_read_only_folder(data, whole, command, capsys, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="advit-read-only-") as name:
        place = Path(name)
        shutil.copytree(data, place / "data")
        shutil.copytree(whole, place / "run")
        (place / "run/metrics.json").unlink()
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
        monkeypatch.setenv("ADVIT_STORE", str(place / "store"))
        root, run = str(place / "data"), str(place / "run")
        arguments = {
            "train": ["train", "-p", "gear", "--data", root, "--out", str(place / "new")],
            "resume": ["train", "-p", "gear", "--data", root, "--out", run, "--resume"],
            "localize": ["localize", run, f"{root}/gear/test/good", "--out", str(place / "found")],
            "evaluate": ["evaluate", run, "--data", root],
            "reproduce": ["reproduce", "--profile", "smoke", "--data", root, "-p", "gear", "--out", str(place)],
        }[command]
        with as_user():
            status = cli.main([*arguments, "--quiet"])
        error = capsys.readouterr().err
        assert status == 1 and "advit: Cannot write" in error and "Permission denied" in error, error
        assert str(place) in error and "Traceback" not in error
        assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
        for path in (place, *place.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("kept", [0, 2**30])
@pytest.mark.parametrize("when", [0, 3, 6])
def test_data_that_go_away_during_a_run(data, whole, tmp_path, monkeypatch, kept, when):
    """Held in memory they are not missed; else the file is named, and the run continues once they are back."""
    mine = tmp_path / "set"
    shutil.copytree(data, mine)
    step, count = training.train_step, 0

    def removes(*arguments):
        nonlocal count
        if count == when:
            shutil.move(mine, tmp_path / "away")
        count += 1
        return step(*arguments)

    monkeypatch.setattr("advit.runs.ImageCache", lambda *a, **k: ImageCache(*a, **k, limit_bytes=kept))
    monkeypatch.setattr(training, "train_step", removes)
    run = tmp_path / "run"
    if kept:
        train(mine, run)
    else:
        with pytest.raises(DataError, match=r"cannot decode .*\.png: no such file or directory\. Re-export or remove"):
            train(mine, run)
        (tmp_path / "away").rename(mine)
        train(mine, run, resume=True)
    for name in set(SAME) - {"config.json"}:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_run_whose_data_are_gone(data, whole, tmp_path, capsys):
    mine = tmp_path / "set"
    shutil.copytree(data, mine)
    run = tmp_path / "run"
    train(mine, run)
    shutil.rmtree(mine)
    assert cli.main(["evaluate", str(run), "--quiet"]) == 1
    assert f"{mine} does not exist. Pass a folder of categories." in capsys.readouterr().err
    same_but_place = set(SAME) - {"config.json"}
    assert all((run / n).read_bytes() == (whole / n).read_bytes() for n in same_but_place)


def test_an_output_folder_removed_in_mid_run(data, tmp_path, monkeypatch):
    run, step = tmp_path / "run", training.train_step

    def removes(*args, **kwargs):
        shutil.rmtree(run, ignore_errors=True)
        return step(*args, **kwargs)

    monkeypatch.setattr(training, "train_step", removes)
    with pytest.raises(AdvitError, match=r"run was removed or emptied during the run, .* Train again\."):
        train(data, run)
    assert not (run / "config.json").exists()
