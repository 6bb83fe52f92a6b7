"""How much results depend on threads and on the processor: the same run several times, and what differs.

    .venv/bin/python tests/tolerance.py --out results/tolerance.csv
    .venv/bin/python tests/tolerance.py --threads 1 2 4 --instructions avx2 --precision float64

Every run is a process of its own; the first is repeated, so that a difference is known not to be chance. An older
processor is imitated: PyTorch, oneDNN, MKL and the compiler of advit/pairs.cpp are told to use no newer instructions
than those named. (A processor of another maker may take other paths still; ``make verify`` compares real ones.)
Printed: the largest difference of a weight (of the largest weight), of a map value (in standard deviations of the
maps), and of a metric.
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
import pandas as pd

from advit.files import write_json, write_text
from advit.reproduce import cpu_family
from advit.results import code_version, versions

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05")
OPTIONS = "epochs=2 max_steps=30 image_size=128"
COMPILER = os.environ.get("CXX", "c++")
INSTRUCTIONS = {
    "": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "CXX": f"{COMPILER} -mno-avx512f",
    },
    "sse4": {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "CXX": f"{COMPILER} -mno-avx",
    },
}  # fmt: skip
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
maps = detector.judge(cache.batch, len(category.test), cpu).maps
weights = np.concatenate([v.double().flatten().numpy() for v in detector.network.state_dict().values()])
np.savez(out / "found.npz", maps=maps, weights=weights)
"""


def run(root: Path, out: Path, threads: int, instructions: str, options: list[str]) -> tuple[dict, dict]:
    """Arrays and metrics of one process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    environment |= INSTRUCTIONS[instructions]
    command = [sys.executable, "-c", RUN, str(out), str(root), str(threads), *options]
    subprocess.run(command, env=environment, check=True)
    with np.load(out / "found.npz") as arrays:
        return dict(arrays), json.loads((out / "metrics.json").read_text())


def gap(arrays: dict, other: dict, first: dict, metrics: dict) -> dict[str, float]:
    """Largest differences from the reference: of a weight and of a map value, relative, and of a metric."""
    return {
        "weights": float(np.abs(arrays["weights"] - first["weights"]).max() / np.abs(first["weights"]).max()),
        "maps": float(np.abs(arrays["maps"] - first["maps"]).max() / first["maps"].std()),
        "metrics": max(abs(other[name] - metrics[name]) for name in METRICS),
    }


def main() -> None:
    from advit.synthetic import write_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="counts to compare (default: 1 2)")
    parser.add_argument(
        "--instructions", nargs="*", default=["avx2", "sse4"], choices=[name for name in INSTRUCTIONS if name],
        help="of older processors, each with the first number of threads (default: avx2 sse4)",
    )  # fmt: skip
    parser.add_argument("--precision", nargs="+", default=["auto", "float32", "float64"], help="default: all three")
    parser.add_argument("--out", type=Path, help="CSV file for the table, with a JSON file of its provenance beside it")
    args = parser.parse_args()
    one, rows = args.threads[0], []
    cases = [*((threads, "") for threads in args.threads), *((one, name) for name in args.instructions)]
    with tempfile.TemporaryDirectory() as place:
        root = write_dataset(
            Path(place) / "data", 0, categories=["gear"], image_size=128, n_train=16, n_test_good=4, n_per_defect=2
        )
        for precision in args.precision:
            options, folder = [*OPTIONS.split(), f"precision={precision}"], Path(place) / precision
            first, metrics = run(root, folder / "first", one, "", options)
            for number, (threads, instructions) in enumerate(cases):
                arrays, other = run(root, folder / f"run{number}", threads, instructions, options)
                case = {"precision": precision, "threads": threads, "instructions": instructions or "own"}
                rows.append(case | gap(arrays, other, first, metrics))
                print(
                    ", ".join(f"{k} {v:.1e}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                    flush=True,
                )
    if args.out:
        write_text(args.out, pd.DataFrame(rows).to_csv(index=False, float_format="%.1e"))
        made = code_version() | {
            "versions": versions(),
            "cpu": cpu_family(),
            "options": OPTIONS,
            "reference_threads": one,
        }
        write_json(args.out.with_suffix(".json"), made)


if __name__ == "__main__":
    main()
