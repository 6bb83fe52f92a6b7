"""Hours of continuous training and scoring in one process, watching memory and open files.

    .venv/bin/python tests/long_run.py --minutes 60 --out long_run.csv

Each round trains a tiny model, evaluates it, exports its maps and checks the data, in a folder that is overwritten. A
line per round goes to the table: minutes, rounds, resident memory (MiB), open file descriptors, threads. After a
warm-up of a fifth of the time, memory may grow by 5 % at most (least squares over what is left) and no descriptor or
thread may be added; else the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from advit.config import with_options
from advit.data import open_category
from advit.data_check import check_category
from advit.export import export
from advit.presets import PRESETS
from advit.runs import evaluate_run, train_run
from advit.synthetic import write_dataset

TINY = dict(
    image_size=64, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=2, target_dim=6,
    density_hidden=8, batch_size=4, epochs=3, max_steps=0, evaluation_size=64, precision="float32",
)  # fmt: skip
COLUMNS = "minutes,round,rss_mib,files,threads"
GROWTH, WARM_UP = 0.05, 0.2


def one_round(data: Path, place: Path, seed: int, device: torch.device) -> None:
    """Train, evaluate, export and check, as a user would."""
    category = open_category(data, "gear")
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    train_run(category, with_options(PRESETS["quick"], TINY), seed=seed, out=run, device=device, progress=False)
    evaluate_run(run, category, device, out=place / "again", progress=False)
    list(export(run, place / "maps", device, progress=False))
    if check_category(data, "gear").errors:
        raise SystemExit("the data set was damaged")


def resources() -> tuple[float, int, int]:
    """Resident memory in MiB, open files and threads of this process, as Linux tells them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files, threads


def slope_share(minutes: np.ndarray, values: np.ndarray) -> float:
    """Growth over the whole span by a straight line, as a share of the mean."""
    if len(values) < 3:
        return 0.0
    slope = np.polyfit(minutes, values, 1)[0]
    return float(slope * (minutes[-1] - minutes[0]) / values.mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--out", type=Path, help="table of every round, CSV")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default: cpu)")
    args = parser.parse_args()
    device, rows = torch.device(args.device), []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = write_dataset(
            place / "data", 0, categories=["gear"], image_size=64, n_train=10, n_test_good=2, n_per_defect=1
        )
        while (minutes := (time.monotonic() - start) / 60) < args.minutes:
            one_round(data, place, len(rows), device)
            rows.append((minutes, len(rows) + 1, *resources()))
            if len(rows) % 10 == 1:
                print("{:6.1f} min, round {:4}: {:6.1f} MiB, {} open files, {} threads".format(*rows[-1]), flush=True)
    table = np.array(rows)
    if args.out:
        np.savetxt(args.out, table, fmt="%.4f", delimiter=",", header=COLUMNS, comments="")
    settled = table[table[:, 0] >= WARM_UP * args.minutes]
    growth = slope_share(settled[:, 0], settled[:, 2])
    added = settled[-1, 3:] - settled[0, 3:]
    print(
        f"{len(rows)} rounds in {args.minutes:g} minutes; after the warm-up memory {settled[0, 2]:.0f} to "
        f"{settled[-1, 2]:.0f} MiB (line: {growth:+.1%}), open files {added[0]:+.0f}, threads {added[1]:+.0f}"
    )
    return int(growth > GROWTH or (added > 0).any())


if __name__ == "__main__":
    sys.exit(main())
