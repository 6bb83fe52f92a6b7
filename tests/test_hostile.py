"""Files that nobody should trust: nothing in them is executed, and every one is read or refused by name.

The random part takes more examples with ADVIT_FUZZ=N (of each reader); what it found is in the lists of this file.
"""

import contextlib
import copy
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from advit import cli
from advit.checkpoint import load_checkpoint
from advit.config import ADViTConfig, parse_options, with_options
from advit.data import list_categories, open_category, scan_category
from advit.errors import AdvitError, CheckpointError, ConfigError, DataError
from advit.listing import IMAGE_SUFFIXES
from advit.presets import PRESETS
from advit.runs import load_run, read_config, train_run
from advit.synthetic import write_dataset

TINY = with_options(
    PRESETS["quick"],
    dict(image_size=64, patch=8, dim=24, depth=1, heads=3, mlp_dim=32, bottleneck=16, components=2, target_dim=6,
         density_hidden=8, batch_size=4, epochs=1, max_steps=0, evaluation_size=64, precision="float32"),
)  # fmt: skip
CPU = torch.device("cpu")
EXAMPLES = int(os.environ.get("ADVIT_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES == 60
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(out, 0, categories=["gear"], image_size=64, n_train=8, n_test_good=1, n_per_defect=1)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "gear"
    train_run(open_category(data, "gear"), TINY, seed=0, out=out, device=CPU, progress=False)
    return out


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# --- nothing is executed


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "calibration.safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
@pytest.mark.parametrize("command", ["evaluate", "localize", "resume"])
def test_a_pickle_in_a_checkpoint_is_not_executed(run, data, tmp_path, capsys, name, kind, command):
    here, mark = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(run, here)
    if kind == "pickle":
        (here / name).write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"x": Payload(mark)}, here / name, _use_new_zipfile_serialization=kind == "zip")
    arguments = {
        "evaluate": ["evaluate", str(here), "--data", str(data)],
        "localize": ["localize", str(here), str(data / "gear/test/good"), "--out", str(tmp_path / "o")],
        "resume": ["train", "-p", "gear", "--data", str(data), "--out", str(here), "--resume"],
    }[command]
    if command == "resume" and name.startswith("calibration"):
        pytest.skip("training writes the calibration anew")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", TINY)
        assert cli.main([*arguments, "--quiet"]) == 1
    error = capsys.readouterr().err
    assert f"{name} is damaged or was not written by advit" in error and "Traceback" not in error
    assert not mark.exists()
    torch.save({"x": Payload(mark)}, tmp_path / "again")
    torch.load(tmp_path / "again", weights_only=False)
    assert mark.exists()  # the payload works where it is let in


def test_arrays_with_objects_are_not_unpickled(tmp_path):
    from advit.study import read_arrays

    np.savez(tmp_path / "patches.npz", density=np.array([Payload(tmp_path / "executed")], dtype=object))
    with pytest.raises((AdvitError, ValueError)):
        read_arrays(tmp_path / "patches.npz")
    assert not (tmp_path / "executed").exists()


CODE = ["__import__('os').system('touch executed')", "!!python/object/apply:os.system [touch executed]", "${jndi:x}"]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("option", ["score", "mask_blocks", "model", "dim", "learning_rate"])
def test_an_option_that_names_code_is_text(tmp_path, monkeypatch, capsys, code, option):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        with_options(ADViTConfig(), {option: code})
    assert cli.main(["train", "-p", "gear", "--set", f"{option}={code}", "--out", str(tmp_path / "o")]) == 1
    assert option in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["category", "data_root", "data_digest"])
@pytest.mark.parametrize("code", CODE)
def test_a_stored_config_that_names_code_is_text(run, tmp_path, monkeypatch, capsys, key, code):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "run"
    shutil.copytree(run, here)
    (here / "config.json").write_text(json.dumps(json.loads((run / "config.json").read_text()) | {key: code}))
    assert cli.main(["evaluate", str(here), "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("advit: ") and [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell script as a fake Ghostscript")
def test_postscript_called_png_starts_no_interpreter(tmp_path):
    """Pillow would run Ghostscript on it, were all its formats allowed."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/gs"
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    fake.chmod(0o755)
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\nshowpage\n%%EOF\n"
    )
    code = (
        "import sys; from pathlib import Path; from PIL import Image\n"
        "from advit.images import read_image; from advit.errors import DataError\n"
        "try:\n    read_image(Path(sys.argv[1]))\nexcept DataError as e:\n    assert 'not an image' in str(e)\n"
        "else:\n    sys.exit('was read')\n"
        "import os; assert not os.path.exists(sys.argv[2])\n"
        "try:\n    Image.open(sys.argv[1]).load()\nexcept OSError:\n    pass\n"
        "assert os.path.exists(sys.argv[2])\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "executed")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_names_with_markup_and_formulas_go_through_a_run(data, tmp_path):
    """Names of files and kinds reach a table, a contact sheet and a report as text."""
    from advit.report import safe_markdown

    root = tmp_path / "data"
    shutil.copytree(data / "gear", root / "a$b_{$")
    evil = "<img src=x onerror=alert(1)>$\\frac{$"
    (root / "a$b_{$/test/crack").rename(root / "a$b_{$/test" / evil)
    (root / "a$b_{$/ground_truth/crack").rename(root / "a$b_{$/ground_truth" / evil)
    image, mask = root / "a$b_{$/test" / evil / "000.png", root / "a$b_{$/ground_truth" / evil / "000_mask.png"
    image.rename(image.with_name("'=1+1,\n$_{$.png"))
    mask.rename(mask.with_name("'=1+1,\n$_{$_mask.png"))
    record = train_run(open_category(root, "a$b_{$"), TINY, seed=0, out=tmp_path / "o", device=CPU, progress=False)
    assert evil in record["per_defect"]
    import csv

    rows = list(csv.DictReader((tmp_path / "o/scores.csv").open(newline="")))
    assert {r["image"] for r in rows} >= {f"test/{evil}/'=1+1,\n$_{{$.png"} and len(rows) == 7
    assert "<img" not in safe_markdown(f"| a |\n|---|\n| {evil} |\n")


# --- found by the random part below, and kept


def edited(run, tmp_path, change):
    """A copy of a run with another configuration, in config.json and in the headers alike."""
    here = tmp_path / "edited"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(run, here)
    stored = json.loads((here / "config.json").read_text())
    stored["config"] |= change
    (here / "config.json").write_text(json.dumps(stored))
    for name in ("checkpoint", "calibration"):
        tensors, meta = load_checkpoint(here / f"{name}.safetensors")
        meta["identity"]["config"] |= change
        save_file(tensors, here / f"{name}.safetensors", metadata={"advit": json.dumps(meta)})
    return here


@pytest.mark.parametrize(
    "change",
    [{"depth": 10**9}, {"dim": 3 * 10**8}, {"mlp_dim": 10**12}, {"image_size": 8 * 10**6}, {"components": 10**10},
     {"bottleneck": 10**11}, {"density_hidden": 10**12}],
)  # fmt: skip
def test_sizes_of_a_stored_config_take_no_memory_before_they_are_compared(run, tmp_path, change):
    with pytest.raises(CheckpointError):
        load_run(edited(run, tmp_path, change), CPU)


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    here = edited(run, tmp_path, {})
    tensors, meta = load_checkpoint(here / "checkpoint.safetensors")
    next(v for k, v in tensors.items() if k.startswith("network."))[...] = float("nan")
    save_file(tensors, here / "checkpoint.safetensors", metadata={"advit": json.dumps(meta)})
    with pytest.raises(CheckpointError, match="is not finite"):
        load_run(here, CPU)


HEADERS = ["[]", "3", "null", '""', "{", "[" * 100_000, '{"identity": 3}', '{"identity": {"config": []}}']


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_headers_that_are_no_record(run, tmp_path, header):
    here = edited(run, tmp_path, {})
    for name in ("checkpoint", "calibration"):
        shutil.copy(run / f"{name}.safetensors", here)
        save_file(load_file(run / f"{name}.safetensors"), here / f"{name}.safetensors", metadata={"advit": header})
        with pytest.raises(CheckpointError):
            load_run(here, CPU)
        shutil.copy(run / f"{name}.safetensors", here)


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    path = tmp_path / "c.safetensors"
    for length in (2**63, 2**32, 10**8 - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    much = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"__metadata__": {"advit": "{}"}, "x": much})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_pipe_is_no_checkpoint_and_no_config(run, tmp_path):
    here = tmp_path / "run"
    shutil.copytree(run, here)
    for name in ("config.json", "checkpoint.safetensors", "calibration.safetensors"):
        (here / name).unlink()
        os.mkfifo(here / name)
        with pytest.raises(AdvitError, match=f"{name}.* is a pipe"):
            load_run(here, CPU)
        (here / name).unlink()
        shutil.copy(run / name, here)


# --- random files


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from([f.name for f in fields(ADViTConfig)])


@FUZZ
@given(options=st.dictionaries(names | st.text(max_size=12), json_values, max_size=5))
@example(options={"mask_blocks": "1" * 5000})
@example(options={"mask_blocks": ",".join(["1"] * 9)})
@example(options={"image_size": 2**70, "patch": 2**70})
def test_any_options_are_a_configuration_or_an_error(options):
    try:
        config = with_options(ADViTConfig(), options)
    except ConfigError as error:
        assert str(error)
        return
    assert with_options(ADViTConfig(), json.loads(json.dumps(config.to_dict()))) == config
    assert all(1 <= side <= config.grid for side in config.block_sides)


@FUZZ
@given(name=names | st.text(max_size=9), sign=st.sampled_from(["=", "", "==", " = "]), value=st.text(max_size=12))
@example(name="dim", sign="=", value="9" * 5000)
@example(name="sigma_max", sign="=", value="inf")
@example(name="epochs", sign="=", value="\u0663")
def test_any_text_of_set_is_a_configuration_or_an_error(name, sign, value):
    with contextlib.suppress(ConfigError):
        with_options(ADViTConfig(), parse_options([f"{name}{sign}{value}"]))


def change_json(value, data):
    """Replace, remove or add something at a random place of a JSON value."""
    value = copy.deepcopy(value)
    at, holder, key = value, None, None
    while isinstance(at, dict | list) and at and (holder is None or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at)))))
        holder, at = at, at[key]
    if holder is None or data.draw(st.integers(0, 5)) == 0:
        return data.draw(json_values)
    if isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(json_values)
    return value


def works_or_refuses(folder, image):
    """Load a run and score an image; only errors of advit may come out."""
    try:
        detector, _ = load_run(folder, CPU)
    except AdvitError as error:
        assert str(folder) in str(error) or "option" in str(error)
        return
    try:
        _, scores = detector.judge(lambda _: image, 1, CPU)
    except CheckpointError as error:
        assert "not finite" in str(error)
        return
    assert np.isfinite(scores).all()


@pytest.fixture(scope="module")
def image(data):
    with Image.open(data / "gear/test/good/000.png") as picture:
        return torch.from_numpy(np.array(picture.convert("RGB").resize((64, 64)))).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def scratch(run, tmp_path_factory):
    here = tmp_path_factory.mktemp("scratch") / "run"
    shutil.copytree(run, here)
    return here


@FUZZ
@given(data=st.data())
def test_any_config_json_is_read_or_refused(run, scratch, image, data):
    stored = change_json(json.loads((run / "config.json").read_text()), data)
    try:
        (scratch / "config.json").write_text(json.dumps(stored))
        with contextlib.suppress(AdvitError):
            read_config(scratch)
        works_or_refuses(scratch, image)
    finally:
        shutil.copy(run / "config.json", scratch)


@FUZZ
@given(data=st.data(), name=st.sampled_from(["checkpoint.safetensors", "calibration.safetensors"]))
def test_any_header_is_read_or_refused(run, scratch, image, data, name):
    tensors, meta = load_checkpoint(run / name)
    try:
        text = json.dumps(change_json(meta, data))
        save_file(tensors, scratch / name, metadata={"advit": text})
        works_or_refuses(scratch, image)
    finally:
        shutil.copy(run / name, scratch)


@FUZZ
@given(data=st.data(), name=st.sampled_from(["checkpoint.safetensors", "calibration.safetensors"]))
def test_any_tensors_are_read_or_refused(run, scratch, image, data, name):
    tensors, meta = load_checkpoint(run / name)
    key = data.draw(st.sampled_from(sorted(tensors)))
    how = data.draw(st.sampled_from(["remove", "shape", "type", "nan", "huge", "rename", "zero"]))
    value = tensors.pop(key)
    if how == "shape":
        tensors[key] = torch.zeros(data.draw(st.lists(st.integers(0, 9), max_size=4)))
    elif how == "type":
        tensors[key] = value.to(data.draw(st.sampled_from([torch.int64, torch.bool, torch.float16, torch.uint8])))
    elif how in ("nan", "huge", "zero"):
        tensors[key] = torch.full_like(value, {"nan": float("nan"), "huge": 3e38, "zero": 0}[how])
    elif how == "rename":
        tensors[data.draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9))] = value
    try:
        save_file(tensors, scratch / name, metadata={"advit": json.dumps(meta)})
        works_or_refuses(scratch, image)
    finally:
        shutil.copy(run / name, scratch)


@FUZZ
@given(data=st.data(), name=st.sampled_from(["checkpoint.safetensors", "calibration.safetensors", "config.json"]))
def test_any_damaged_bytes_are_read_or_refused(run, scratch, image, data, name):
    whole = bytearray((run / name).read_bytes())
    front = min(len(whole), 3000) - 1  # mostly the header
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, front) | st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.none() | st.integers(0, len(whole)))
    try:
        (scratch / name).write_bytes(whole[:end])
        works_or_refuses(scratch, image)
    finally:
        shutil.copy(run / name, scratch)


@FUZZ
@given(data=st.data())
def test_a_damaged_checkpoint_is_continued_or_refused(run, scratch, data, request):
    """What training reads on --resume."""
    category = open_category(request.getfixturevalue("data"), "gear")
    tensors, meta = load_checkpoint(run / "checkpoint.safetensors")
    if data.draw(st.booleans()):
        meta = change_json(meta, data)
    else:
        key = data.draw(st.sampled_from(sorted(k for k in tensors if k.startswith("optimiser."))))
        value = tensors.pop(key)
        if data.draw(st.booleans()):
            other = data.draw(st.sampled_from([key, "optimiser.x.y", "optimiser.9999.step", "optimiser.1", f"{key}.z"]))
            tensors[other] = torch.zeros(data.draw(st.sampled_from([(), (3,), tuple(value.shape)])))
    try:
        save_file(tensors, scratch / "checkpoint.safetensors", metadata={"advit": json.dumps(meta)})
        with contextlib.suppress(AdvitError):
            train_run(category, TINY, seed=0, out=scratch, device=CPU, resume=True, progress=False, pictures=False)
    finally:
        shutil.rmtree(scratch)
        shutil.copytree(run, scratch)


PARTS = ["train", "test", "ground_truth", "good", "ok", "ko", "bad", "masks", "dent", "000", "000_mask", ".hidden"]
letters = st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"])
part = st.sampled_from(PARTS) | st.text(letters, min_size=1, max_size=6)
suffix = st.sampled_from(["", "", ".png", ".PNG", ".jpg", ".bmp", ".gif", ".txt"])


@FUZZ
@given(
    paths=st.lists(st.tuples(st.lists(part, min_size=1, max_size=4), suffix, st.sampled_from("ffffdl")), max_size=14),
    name=st.just("part") | part,
)
def test_any_tree_of_names_is_read_or_refused(tmp_path_factory, paths, name):
    """No image in it, or in a folder that is not hidden, is left out without a word."""
    root = tmp_path_factory.mktemp("tree")
    for parts, end, kind in paths:
        path = root / "part" / Path(*parts).with_name(f"{parts[-1]}{end}") if parts[-1] not in (".", "..") else root
        if ".." in path.parts or not path.resolve().is_relative_to(root.resolve()):
            continue
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "d":
                path.mkdir()
            elif kind == "l":
                path.symlink_to(".")
            elif not path.exists():
                path.write_bytes(b"x")
    try:
        known = list_categories(root)
        category = open_category(root, name)
    except DataError as error:
        assert str(error)
        return
    assert name in known
    scan = scan_category(root, name)
    used = [p for s in (*category.train, *category.test) for p in (s.path, s.mask) if p]
    assert len(used) == len(set(used)) and category.train
    said = "\n".join(scan.warnings)
    for path in (root / name).rglob("*"):
        hidden = any(p.startswith(".") for p in path.relative_to(root / name).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not hidden and path not in used:
            assert str(path.parent) in said or str(path.relative_to(root / name).parts[0]) in said, path
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "9" * 30], "must lie between -1000000000000 and"),
        (["--device", "meta"], "--device meta cannot be used here"),
        (["--device", "cuda:x"], "--device cuda:x cannot be used here"),
        (["--set", "map_sigma=1e300"], "map_sigma=1e+300: must be at most 512"),
        (["--set", "mask_draws=100000000000"], "mask_draws=100000000000: must be at most 1000"),
        (["--set", "evaluation_size=10000000"], "not enough memory"),
        (["--set", "image_size=8000000"], "not enough memory"),
        (["--out", "/dev/null/x"], "Cannot write /dev/null/x/config.json"),
        (["--out", "n" * 300], "File name too long"),
        (["-p", "x" * 5000], "No category 'xxx"),
        (["-p", "a\0b"], "No category 'a\\x00b'"),
        (["-p", "../gear"], "No category '../gear'"),
        (["--data", "x" * 5000], "does not exist"),
        (["--data", "a\0b"], "does not exist"),
    ],
)
def test_arguments_of_any_kind_end_in_a_message(data, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setitem(PRESETS, "quick", TINY)
    monkeypatch.chdir(tmp_path)
    defaults = {"-p": "gear", "--data": str(data), "--out": "o"}
    words = [w for key, value in defaults.items() if key not in arguments for w in (key, value)]
    assert cli.main(["train", *words, *arguments, "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("advit: ") and message in error and "Traceback" not in error
