"""files.py and checkpoint.py: whole or not at all; damage and foreign files are named."""

import errno
import json
import os

import pytest
import torch
from torch import nn

from advit.checkpoint import load_checkpoint, restore, save_checkpoint
from advit.errors import AdvitError, CheckpointError
from advit.files import atomic, write_json, write_text


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_explained_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdvitError, match=r"Cannot write .*a\.txt: No space left on device\. Free some space"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(AdvitError, match="Cannot write"):
        write_json(tmp_path / "f" / "a.json", {})


def test_json_refuses_nan_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"network.weight": torch.arange(6.0).reshape(2, 3)}, {"step": 3, "name": "ä"})
    tensors, meta = load_checkpoint(path)
    assert torch.equal(tensors["network.weight"], torch.arange(6.0).reshape(2, 3))
    assert meta == {"step": 3, "name": "ä"}


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "pickle", "foreign"])
def test_bad_checkpoints_are_named(tmp_path, damage):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"x": torch.zeros(100)}, {})
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "pickle":
        torch.save({"x": torch.zeros(2)}, path)
    else:
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(2)}, path)
    expected = "No checkpoint at" if damage == "missing" else "is damaged or was not written by advit"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(path)


def test_weights_of_another_shape_are_refused(tmp_path):
    tensors = {f"network.{k}": v for k, v in nn.Linear(3, 4).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"c belongs to another configuration: size mismatch for weight"):
        restore(nn.Linear(3, 5), None, tensors, "c")


def test_no_half_written_file_carries_the_name_of_a_whole_one(tmp_path):
    with atomic(tmp_path / "a.json") as temporary:
        temporary.write_text(json.dumps([1]))
        assert not (tmp_path / "a.json").exists() and temporary.name.startswith(".")
