"""How much results depend on the number of threads: the same run with 1 and with 2, and what differs.

    .venv/bin/python tests/thread_tolerance.py
    .venv/bin/python tests/thread_tolerance.py --threads 1 2 4 --set precision=float64

Each thread count is a process of its own (also repeated, so that the difference is known not to be chance). Printed:
largest difference of a weight, of a map value (in standard deviations of the maps), and of each metric.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = "epochs=2 max_steps=30 image_size=128"
RUN = """
import json, sys, numpy as np, torch
from pathlib import Path
from advit.config import parse_options, with_options
from advit.data import open_category
from advit.presets import preset
from advit.runs import load_run, train_run
from advit.cache import ImageCache
out, root, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
category, cpu = open_category(root, "gear"), torch.device("cpu")
config = with_options(preset("quick"), parse_options(sys.argv[4:]))
record = train_run(category, config, seed=0, out=out, device=cpu, progress=False, pictures=False)
detector, _ = load_run(out, cpu)
cache = ImageCache(category.test, config.image_size)
maps = detector.maps(cache.batch, len(category.test), cpu)
weights = np.concatenate([v.double().flatten().numpy() for v in detector.network.state_dict().values()])
np.savez(out / "found.npz", maps=maps, weights=weights)
"""


def run(root: Path, out: Path, threads: int, options: list[str]) -> tuple[dict, dict]:
    """Arrays and metrics of one process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", RUN, str(out), str(root), str(threads), *options]
    subprocess.run(command, env=environment, check=True)
    with np.load(out / "found.npz") as arrays:
        return dict(arrays), json.loads((out / "metrics.json").read_text())


def main() -> None:
    from advit.synthetic import write_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="counts to compare (default: 1 2)")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of the preset quick")
    args = parser.parse_args()
    options = [*OPTIONS.split(), *args.set]
    with tempfile.TemporaryDirectory() as place:
        root = write_dataset(
            Path(place) / "data", 0, categories=["gear"], image_size=128, n_train=16, n_test_good=4, n_per_defect=2
        )
        first, metrics = run(root, Path(place) / "first", args.threads[0], options)
        print(f"preset quick, {' '.join(options)}; reference: {args.threads[0]} threads")
        for number, threads in enumerate([args.threads[0], *args.threads[1:]]):
            arrays, other = run(root, Path(place) / f"run{number}", threads, options)
            weights = np.abs(arrays["weights"] - first["weights"]).max() / np.abs(first["weights"]).max()
            maps = np.abs(arrays["maps"] - first["maps"]).max() / first["maps"].std()
            names = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05")
            differing = ", ".join(f"{n} {abs(other[n] - metrics[n]):.1e}" for n in names)
            found = f"weights {weights:.1e} of the largest, maps {maps:.1e} sd, {differing}"
            print(f"{threads} threads: {found}", flush=True)


if __name__ == "__main__":
    main()
