"""Kill -9 at random moments, resume, and compare with an uninterrupted run, byte for byte.

    make killtest                                       # 20 kills of training, 20 of the reproduction
    .venv/bin/python tests/kill_often.py --train 5 --reproduce 0 --seed 3

Training: a tiny run that saves after every epoch is killed again and again, after every kill all its files are read,
and it is continued until it is finished; then the next run begins, until the kills are used up. The reproduction:
``advit reproduce --profile smoke`` in a folder of its own in the same way. Kills fall between the end of the imports
and a little after the end of the work, uniformly over what an uninterrupted run takes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "image_size=64 patch=8 dim=24 depth=1 heads=3 mlp_dim=32 bottleneck=16 components=2 target_dim=6 density_hidden=8 "
    "batch_size=4 epochs=25 max_steps=0 evaluation_size=64 precision=float32"
)
# Imports first, then a line to wait for; a checkpoint after every epoch instead of every twenty seconds.
START = (
    "import sys, torch, advit.runs, advit.reproduce, advit.training as t, advit.cli as c\n"
    "t.SAVE_EVERY_SECONDS = -1\nif __name__ == '__main__':\n"
    "    print('ready', flush=True)\n    sys.exit(c.main(sys.argv[1:]))\n"
)
STORE = "runs"  # of it, the weights are compared: its records and logs hold times
VOLATILE = ("provenance.json", "metrics.json", "training.json")


def begin(arguments: list[str], place: Path) -> subprocess.Popen:
    """Start a command and wait until it has imported everything."""
    script = place / "start.py"
    script.write_text(START, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments], cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=(place / "stderr.txt").open("a"),
    )  # fmt: skip
    line = process.stdout.readline()
    if line.strip() != "ready":
        raise SystemExit(f"the command did not start: {line} {(place / 'stderr.txt').read_text()[-2000:]}")
    return process


def finish(process: subprocess.Popen, place: Path) -> None:
    """Wait for its end, which must be a good one."""
    said = process.stdout.read()
    if process.wait():
        raise SystemExit(f"exit {process.returncode}: {said[-2000:]}\n{(place / 'stderr.txt').read_text()[-3000:]}")


def read_whole(path: Path) -> None:
    """Read a file with the library of its kind; a half-written one raises."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as f:
            json.loads(f.metadata()["advit"])
            for key in f.keys():  # noqa: SIM118
                f.get_tensor(key)
    elif path.suffix in (".json", ".ipynb"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".jsonl":
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix in (".csv", ".md", ".tex", ".svg", ".html"):
        text = path.read_text(encoding="utf-8")
        assert text.endswith(("\n", ">")), f"{path} ends in the middle"


def check_files(folder: Path) -> None:
    """Every file that carries its final name is whole."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and ".running." not in path.name and ".failed." not in path.name:
            read_whole(path)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, of records without when and where they were made."""
    found = {}
    pattern = "*.safetensors" if folder.name == STORE else "*"
    for path in sorted(p for p in folder.rglob(pattern) if p.is_file() and not p.name.startswith(".")):
        content = path.read_bytes()
        if path.name in VOLATILE or (path.parent.name == "runs" and path.suffix == ".json"):
            record = json.loads(content)
            record.pop("provenance", None)
            content = json.dumps(record).encode() if "config" in record else b""
        if path.suffix in (".html", ".ipynb"):  # the report and the notebooks hold times
            content = b""
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def kill_often(
    name: str, kills: int, chance: random.Random, place: Path, arguments: Callable[[Path], list[str]], shown: list[str]
) -> None:
    """Kill and resume ``kills`` times over as many runs as that takes; raise SystemExit at the first difference."""
    reference = place / "reference"
    reference.mkdir(parents=True)
    process, start = begin(arguments(reference), reference), time.monotonic()
    finish(process, reference)
    seconds = time.monotonic() - start
    expected = {part: digests(reference / part) for part in shown}
    print(f"{name}: {seconds:.1f} s, {sum(map(len, expected.values()))} files, when nothing interrupts", flush=True)
    done, runs, moments = 0, 0, []
    while done < kills:
        runs += 1
        here = place / f"run{runs}"
        here.mkdir()
        while True:
            process = begin(arguments(here), here)
            moment = chance.uniform(0, seconds * 1.05) if done < kills else float("inf")
            try:
                process.wait(min(moment, 3600))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                moments.append(moment)
                for part in shown:
                    if (here / part).exists():
                        check_files(here / part)
                continue
            finish(process, here)
            break
        for part in shown:
            found = digests(here / part)
            differing = sorted(k for k in {*found, *expected[part]} if found.get(k) != expected[part].get(k))
            if differing:
                raise SystemExit(f"{name}, run {runs}, kills {moments}: {part} differs in {differing}; see {here}")
        moments.clear()
        shutil.rmtree(here)
        print(f"{name}: {done} kills in {runs} runs, every file equal to the uninterrupted one's", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=20, metavar="KILLS", help="of advit train (default: 20)")
    parser.add_argument("--reproduce", type=int, default=20, metavar="KILLS", help="of advit reproduce (default: 20)")
    parser.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    place = Path(tempfile.mkdtemp(prefix="advit-kills-"))
    options = [word for option in TINY.split() for word in ("--set", option)]
    if args.train:
        from advit.synthetic import write_dataset

        data = write_dataset(
            place / "data", 0, categories=["gear"], image_size=64, n_train=12, n_test_good=2, n_per_defect=1
        )

        def train(here: Path) -> list[str]:
            return ["train", "-p", "gear", "--data", str(data), "--out", "run", "--quiet", "--resume", *options]

        kill_often("train", args.train, chance, place / "train", train, ["run"])
    if args.reproduce:
        chosen = ["--notebooks", *args.notebooks] if args.notebooks else []

        def reproduce(here: Path) -> list[str]:
            return ["reproduce", "--profile", "smoke", "--out", str(here), "--quiet", *chosen]

        kill_often("reproduce", args.reproduce, chance, place / "reproduce", reproduce, ["results", "figures", STORE])
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
