"""remains.py: what dead processes left goes, and nothing else."""

import os
import subprocess
import sys

import pytest

from advit.remains import sweep
from advit.synthetic import write_dataset


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_temporary_names_of_dead_processes_go(tmp_path, dead):
    ours = [f".a.json.{dead}.tmp.json", f".b.{dead}.tmp", f".c d.npz.{dead}.tmp.npz"]
    other = [f".a.json.{os.getpid()}.tmp.json", f"a.json.{dead}.tmp", f".{dead}.tmp", ".a.json.tmp", f".a.{dead}.tmpx",
             f".a.{dead}.part", f".a.{10**30}.tmp", ".a.lock", "metrics.json"]  # fmt: skip
    for name in ours + other:
        (tmp_path / name).write_text("x")
    for name in (f".set.{dead}.part/gear", f".set.{os.getpid()}.part", f".folder.{dead}.tmp", f"deep/.b.{dead}.part"):
        (tmp_path / name).mkdir(parents=True)
    sweep(tmp_path)
    left = {*other, f".set.{os.getpid()}.part", f".folder.{dead}.tmp", "deep"}
    assert {p.name for p in tmp_path.iterdir()} == left and (tmp_path / f"deep/.b.{dead}.part").exists()
    sweep(tmp_path / "none")


def test_the_part_of_a_killed_writer_goes_when_the_data_set_is_written(tmp_path, dead):
    for name in (f".set.{dead}.part", f".other.{dead}.part"):
        (tmp_path / name / "gear").mkdir(parents=True)
    write_dataset(tmp_path / "set", categories=["weave"], image_size=64, n_train=1, n_test_good=0, n_per_defect=0)
    assert {p.name for p in tmp_path.iterdir()} == {"set", ".set.lock", f".other.{dead}.part"}
