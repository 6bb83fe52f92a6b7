"""store.py: nothing is trained twice, nothing depends on how many go side by side, and a kill costs nothing."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import advit.store as store_module
from advit.data import data_digest, open_category
from advit.errors import AdvitError, CheckpointError, TrainingError
from advit.native import SOURCES
from advit.profiles import PROFILES
from advit.runs import EXAMPLE, METRICS, PATCHES, SCORES_CSV, SHEET
from advit.store import (
    code_digest,
    damaged,
    decisive_modules,
    is_stored,
    make_spec,
    require_runs,
    statements,
    stored_record,
    work,
)
from advit.synthetic import write_dataset

CPU = torch.device("cpu")
CONFIG = replace(PROFILES["smoke"].base, max_steps=6)


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    write_dataset(root, 0, categories=["weave"], image_size=64, n_train=8, n_test_good=2, n_per_defect=1)
    return open_category(root, "weave")


def spec(category, seed=0, config=CONFIG, pictures=False):
    return make_spec(category, data_digest(category), config, seed, CPU, pictures)


def weights(folder):
    return {name: (folder / name).read_bytes() for name in ("checkpoint.safetensors", PATCHES, "scores.csv")}


def test_a_run_is_trained_once_and_leaves_what_the_notebooks_need(category, tmp_path, monkeypatch):
    require_runs([spec(category), spec(category)], tmp_path, CPU, processes=1, progress=False)
    folder = spec(category).folder(tmp_path)
    record = stored_record(spec(category), tmp_path)
    assert set(record["maps"]) == {"density", "reconstruction", "discrepancy", "association"}
    assert record["maps"]["density"]["aupro_0.3"] == record["aupro_0.3"]
    assert (folder / PATCHES).exists() and not (folder / SHEET).exists()
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["ad_normal"] > 0 and last["ad_defect"] > 0

    def forbidden(*_, **__):
        raise AssertionError("a stored run was trained again")

    monkeypatch.setattr(store_module, "train_run", forbidden)
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)


@pytest.mark.slow
def test_runs_side_by_side_are_those_of_one_after_the_other(category, tmp_path):
    specs = [spec(category, seed) for seed in (0, 1)]
    threads = torch.get_num_threads()
    require_runs(specs, tmp_path / "one", CPU, processes=1, progress=False)
    require_runs(specs, tmp_path / "two", CPU, processes=2, progress=False)
    for s in specs:
        assert weights(s.folder(tmp_path / "one")) == weights(s.folder(tmp_path / "two"))
    assert torch.get_num_threads() == threads


def test_pictures_are_added_to_a_stored_run(category, tmp_path):
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)
    folder, before = spec(category).folder(tmp_path), weights(spec(category).folder(tmp_path))
    assert stored_record(spec(category, pictures=True), tmp_path) is None
    require_runs([spec(category, pictures=True), spec(category)], tmp_path, CPU, processes=1, progress=False)
    assert (folder / SHEET).exists() and (folder / EXAMPLE).exists() and weights(folder) == before


def test_what_a_killed_process_left_in_a_run_goes(category, tmp_path):
    folder = spec(category).folder(tmp_path)
    folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (folder / f".checkpoint.safetensors.{process.pid}.tmp.safetensors").write_bytes(b"half")
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)
    assert not list(folder.glob(".*"))


def test_a_damaged_record_is_made_again_and_its_weights_kept(category, tmp_path):
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)
    folder = spec(category).folder(tmp_path)
    before = weights(folder)
    (folder / METRICS).write_text('{"image_auroc": 0.')
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)
    assert stored_record(spec(category), tmp_path)["image_auroc"] > 0 and weights(folder) == before


@pytest.fixture(scope="module")
def drawn(category, tmp_path_factory):
    """A store of one run with pictures."""
    store = tmp_path_factory.mktemp("drawn")
    require_runs([spec(category, pictures=True)], store, CPU, processes=1, progress=False)
    return store


FILES = (
    "checkpoint.safetensors", "calibration.safetensors", "config.json", "training.json", METRICS, "log.jsonl",
    SCORES_CSV, PATCHES, EXAMPLE, SHEET,
)  # fmt: skip


def test_every_file_that_is_cut_off_is_noticed(category, drawn, tmp_path):
    wanted = spec(category, pictures=True)
    shutil.copytree(drawn, tmp_path / "store")
    folder = wanted.folder(tmp_path / "store")
    assert is_stored(wanted, tmp_path / "store") and {p.name for p in folder.iterdir()} == set(FILES)
    for name in FILES:
        whole = (folder / name).read_bytes()
        ends = [i + 1 for i, byte in enumerate(whole[:-1]) if byte == ord("\n")] if name == SCORES_CSV else []
        for size in (0, len(whole) // 2, len(whole) - 20, *ends):
            (folder / name).write_bytes(whole[:size])
            assert damaged(folder) == [folder / name] and not is_stored(wanted, tmp_path / "store"), (name, size)
        (folder / name).write_bytes(whole)
    assert is_stored(wanted, tmp_path / "store")


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_made_again_and_the_rest_kept(category, drawn, tmp_path, capsys, name, finished):
    shutil.copytree(drawn, tmp_path / "store")
    wanted, store = spec(category, pictures=True), tmp_path / "store"
    folder = wanted.folder(store)
    made_before = json.loads((folder / "training.json").read_text()) | {"seconds": 77.0}
    (folder / "training.json").write_text(json.dumps(made_before) + "\n")
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(whole) == set(FILES)
    cut = whole[name][: len(whole[name]) // 2].rstrip(b"\n")  # at the end of a line, only the record could tell
    (folder / name).write_bytes(cut)
    if not finished:
        (folder / METRICS).unlink(missing_ok=True)
    require_runs([wanted], store, CPU, processes=1, progress=False)
    line = f"advit: damaged, made again: {name} in {folder}\n" * (finished or name != METRICS)
    assert capsys.readouterr().err == line
    assert stored_record(wanted, store)["image_auroc"] == stored_record(wanted, drawn)["image_auroc"]
    made = {p.name: p.read_bytes() for p in folder.iterdir()}
    differing = {k for k in made.keys() | whole.keys() if made.get(k) != whole.get(k)}
    assert differing <= {METRICS, "training.json"}  # which hold times
    kept = name not in ("checkpoint.safetensors", "training.json")
    assert (made["training.json"] == whole["training.json"]) == kept, "when weights were made belongs to the weights"


def test_weights_of_another_run_are_named_with_what_to_delete(category, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "store")
    wanted = spec(category, pictures=True)
    folder = wanted.folder(tmp_path / "store")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"seed": 5}) + "\n")
    (folder / METRICS).unlink()
    with pytest.raises(CheckpointError) as error:
        require_runs([wanted], tmp_path / "store", CPU, processes=1, progress=False)
    assert str(error.value).startswith(f"{folder} holds another run: seed (there 5, now 0).")
    assert str(error.value).endswith(f" To train it again, delete {folder}.")


def test_a_run_of_one_step_still_fits_its_target_and_scores(category):
    """Else the bar would stand at 99 % for minutes when runs of one step and of hundreds go together."""
    one, many = (work(spec(category, config=replace(CONFIG, max_steps=steps))) for steps in (1, 10))
    images = CONFIG.batch_size + 3 * len(category.train) + len(category.test)
    assert one == images * CONFIG.image_size**2 and many - one == 9 * CONFIG.batch_size * CONFIG.image_size**2


def test_a_run_that_cannot_be_trained_is_named(category, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise TrainingError("The density term became nan.")

    monkeypatch.setattr(store_module, "train_run", diverge)
    with pytest.raises(TrainingError) as error:
        require_runs([spec(category, 3)], tmp_path, CPU, processes=1, progress=False)
    folder = spec(category, 3).folder(tmp_path)
    assert str(error.value) == f"weave, seed 3, in {folder}: The density term became nan."


@pytest.mark.slow
def test_an_error_in_a_process_arrives_with_its_message(category, tmp_path):
    bad = replace(CONFIG, learning_rate=1e300, gradient_clip=0.0)
    specs = [spec(category, seed, bad) for seed in (0, 1)]
    with pytest.raises(TrainingError, match="term became"):
        require_runs(specs, tmp_path, CPU, processes=2, progress=False)


@pytest.mark.slow
def test_a_killed_process_is_told_apart_from_a_bug(category, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "follow", kill_the_workers)
    specs = [spec(category, seed) for seed in (0, 1)]
    with pytest.raises(AdvitError, match=r"A training process was killed, .* repeat the command"):
        require_runs(specs, tmp_path, CPU, processes=2, progress=False)


def kill_the_workers(futures, *_):
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    for future in futures:
        future.result()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
def test_workers_end_with_a_killed_parent_and_the_runs_are_completed_later(category, tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from advit.data import open_category\n"
        "from tests_store_specs import specs\n"
        "from advit.store import require_runs\n"
        "if __name__ == '__main__':\n"
        "    print('ready', flush=True)\n"
        "    require_runs(specs(), Path(sys.argv[1]), torch.device('cpu'), processes=2, progress=False)\n"
    )
    helper = (
        "from pathlib import Path; import torch\nfrom dataclasses import replace\n"
        "from advit.data import data_digest, open_category\nfrom advit.profiles import PROFILES\n"
        "from advit.store import make_spec\n"
        f"def specs():\n    c = open_category(Path({str(category.root.parent)!r}), 'weave')\n"
        "    config = replace(PROFILES['smoke'].base, max_steps=6)\n"
        "    return [make_spec(c, data_digest(c), config, s, torch.device('cpu'), False) for s in (0, 1)]\n"
    )
    (tmp_path / "tests_store_specs.py").write_text(helper)
    (tmp_path / "job.py").write_text(code)
    reference, store = tmp_path / "reference", tmp_path / "store"
    specs = [spec(category, seed) for seed in (0, 1)]
    require_runs(specs, reference, CPU, processes=1, progress=False)
    job = subprocess.Popen([sys.executable, "job.py", str(store)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    job.stdout.readline()
    time.sleep(4)
    job.kill()
    job.wait()
    deadline = time.monotonic() + 20
    while any("job.py" in c and str(store) in c for c in command_lines()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [c for c in command_lines() if str(store) in c]
    require_runs(specs, store, CPU, processes=1, progress=False)
    for s in specs:
        assert weights(s.folder(store)) == weights(s.folder(reference))


def command_lines():
    """Command lines of all processes, where the system shows them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_another_option_seed_or_data_set_is_another_run(category, tmp_path):
    one = spec(category).folder(tmp_path)
    others = [spec(category, 1), spec(category, config=replace(CONFIG, noise_sd=0.1))]
    others.append(replace(spec(category), digest="x"))
    assert len({one, *(s.folder(tmp_path) for s in others)}) == 4


def test_the_code_of_a_run_is_all_that_it_imports_but_what_only_draws():
    modules = decisive_modules("runs")
    assert {"training", "model", "discrepancy", "metrics", "images", "synthetic"} - {"synthetic"} <= modules
    assert not modules & {"plots", "cli", "store", "study", "report"}
    assert code_digest() != code_digest("floors")


@pytest.mark.parametrize("changed", range(len(SOURCES)))
def test_the_code_of_a_run_has_the_statements_of_its_cpp(changed, tmp_path, monkeypatch):
    before, found = SOURCES[changed].read_text(encoding="utf-8"), {}
    source = tmp_path / "changed"
    monkeypatch.setattr("advit.store.SOURCES", [*SOURCES[:changed], source, *SOURCES[changed + 1 :]])
    for name, text in {"as it is": before, "comment": "int a;  // one", "none": " int\n a;", "other": "int b;"}.items():
        source.write_text(text, encoding="utf-8")
        code_digest.cache_clear()
        found[name] = code_digest()
    code_digest.cache_clear()
    assert found["comment"] == found["none"] and len(set(found.values())) == 3
    monkeypatch.undo()
    assert code_digest() == found["as it is"]


def test_comments_and_docstrings_are_not_code():
    a = 'def f(x):\n    """One."""\n    return x  # what\n'
    b = '"""Module."""\n\ndef f(x):\n    """Two,\n    three."""\n\n    return x\n'
    assert statements(a) == statements(b) != statements(a.replace("return x", "return -x"))
    assert "pass" in statements('class A(Exception):\n    """Only words."""\n')


def test_the_store_can_be_deleted_and_gives_the_same_bytes(category, tmp_path):
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)
    folder = spec(category).folder(tmp_path)
    before = weights(folder)
    shutil.rmtree(tmp_path)
    require_runs([spec(category)], tmp_path, CPU, processes=1, progress=False)
    assert weights(folder) == before
