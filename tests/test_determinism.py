"""The same seed in two processes: equal weights, maps, scores and figures, to the bit.

After a kill: tests/kill_often.py and tests/test_training.py. With data workers: tests/test_cache.py. With other
numbers of threads results differ in the last digits: tests/tolerance.py measures by how much.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from advit.synthetic import write_dataset

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "image_size=64 patch=8 dim=24 depth=2 heads=3 mlp_dim=32 bottleneck=16 components=2 target_dim=6 density_hidden=8 "
    "batch_size=4 epochs=2 max_steps=0 evaluation_size=64"
)
SAME = (
    "config.json", "log.jsonl", "checkpoint.safetensors", "calibration.safetensors", "scores.csv", "example.npz",
    "contact_sheet.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(out, 0, categories=["gear"], image_size=64, n_train=10, n_test_good=2, n_per_defect=1)


def train(data, out, hash_seed, *options):
    words = [w for option in (*TINY.split(), *options) for w in ("--set", option)]
    command = [sys.executable, "-m", "advit", "train", "-p", "gear", "--data", str(data), "--out", str(out), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_two_processes_give_the_same_bytes(data, tmp_path, precision):
    one, two = (train(data, tmp_path / f"run{i}", str(i), f"precision={precision}") for i in (1, 2))
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.slow
def test_evaluating_and_localizing_in_another_process_repeats_the_bytes(data, tmp_path):
    run = train(data, tmp_path / "run", "1", "precision=float32")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    found = []
    for i in (1, 2):
        out = tmp_path / f"again{i}"
        for command in (["evaluate", str(run), "--out", str(out)],
                        ["localize", str(run), str(data / "gear/test"), "--out", str(out / "maps")]):  # fmt: skip
            subprocess.run(
                [sys.executable, "-m", "advit", *command, "--quiet"], env=environment, check=True, capture_output=True
            )
        assert (out / "scores.csv").read_bytes() == (run / "scores.csv").read_bytes()
        assert (out / "example.npz").read_bytes() == (run / "example.npz").read_bytes()
        files = [p for p in out.rglob("*") if p.is_file() and p.suffix != ".json"]
        found.append({p.relative_to(out): p.read_bytes() for p in files})
    assert found[0] == found[1] and len(found[0]) > 16


def test_a_figure_is_equal_bytes_wherever_memory_lies(tmp_path):
    """Without ``settle`` about one contact sheet in ten differs in some pixels; see there."""
    import numpy as np
    from matplotlib.figure import Figure

    from advit.plots import house_style, save_figure

    def draw(path):
        with house_style():
            figure = Figure(figsize=(6.9, 4), layout="constrained")
            figure.suptitle("title")
            for part in figure.subfigures(2, 1):
                axes = part.subplots(1, 4)
                for i, ax in enumerate(axes):
                    drawn = ax.imshow(np.outer(np.arange(9), np.arange(9)) * (i + 1))
                    ax.contour(np.outer(np.arange(9), np.arange(9)), levels=[9.3, 20.1])
                    ax.set_title(f"part {i}")
                part.colorbar(drawn, ax=axes.tolist()).set_label("score")
            positions = [a.get_position().bounds for a in figure.axes]
            save_figure(figure, path)
            settled = [a.get_position(original=True).bounds for a in figure.axes]
        assert positions != settled and np.allclose(np.round(settled, 6), settled, rtol=0, atol=1e-12)
        return path.with_suffix(".png").read_bytes(), path.with_suffix(".svg").read_bytes()

    rng, first = np.random.default_rng(0), None
    for i in range(4):
        kept = [rng.bytes(int(rng.integers(1, 100_000))) for _ in range(200)]
        del kept[::2]
        found = draw(tmp_path / f"{i}.png")
        first = first or found
        assert found == first
