"""reproduce.py: what is done is not done again, what fails says where, and what comes out is equal to the byte."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import advit.reproduce as module
import advit.study as study_module
from advit.cli import main
from advit.errors import ConfigError, NotebookError
from advit.profiles import PROFILES, Experiment
from advit.reproduce import choose_notebooks, make_job, package_digest, reproduce
from advit.synthetic import write_dataset

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
CPU = torch.device("cpu")
pytestmark = pytest.mark.slow
PARAMETERS = 'profile = "smoke"\ndata_root = ""\ncategories = []\nseeds = []'
WRITE = """import os, pathlib
folder = pathlib.Path(os.environ["ADVIT_RESULTS"]) / "tables"
folder.mkdir(parents=True, exist_ok=True)
(folder / "NAME.md").write_text(f"Caption.\\n\\n{profile} {categories} {seeds}\\n")
print(pathlib.Path(data_root).name)"""


def notebook(path, code):
    v4 = nbformat.v4
    parameters = v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    cells = [v4.new_markdown_cell("# 01 · What is it?"), parameters, v4.new_code_cell(code)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two notebooks, one category and one experiment of one short run, in folders of their own."""
    config = replace(PROFILES["smoke"].base, max_steps=4)
    monkeypatch.setattr(study_module, "experiments", lambda *_: {"main": Experiment({"advit": config}, (0,), True)})
    monkeypatch.setattr(study_module, "floor_table", lambda *_: study_module.pd.DataFrame())
    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.delenv("ADVIT_STORE", raising=False)
    (tmp_path / "notebooks").mkdir()
    for number, name in ((1, "main"), (2, "other")):
        notebook(tmp_path / "notebooks" / f"0{number}_{name}.ipynb", WRITE.replace("NAME", name))
    write_dataset(
        tmp_path / "set", 0, categories=["weave"], image_size=64, n_train=6, n_test_good=2, n_per_defect=1
    )  # fmt: skip
    return tmp_path


def job(place, **options):
    return make_job("smoke", place / "set", (), (), options.get("name", ""), place / "out")


def run(place, only=()):
    return list(reproduce(job(place), CPU, only, progress=False))


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_everything_is_written_where_it_is_said_and_not_done_twice(place):
    lines = run(place)
    results, figures = place / "out/results/smoke-set", place / "out/figures/smoke-set"
    assert (results / "tables/main.md").read_text() == "Caption.\n\nsmoke [] []\n"
    executed = nbformat.read(results / "notebooks/01_main.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == "set\n"
    assert (figures / "contact_sheet_weave.png").exists() and (results / "report/index.html").exists()
    index = (results / "runs.csv").read_text().splitlines()
    assert index[0].startswith("experiment,variant,category,seed,image_auroc") and len(index) == 2
    record = json.loads((results / "runs" / index[1].split(",")[-1]).read_text())
    assert record["category"] == "weave" and record["provenance"]["training"]["versions"]["torch"]
    provenance = json.loads((results / "provenance.json").read_text())
    assert set(provenance["data_digests"]) == {"weave"} and provenance["versions"]["torch"] == torch.__version__
    assert provenance["complete"] is True and set(provenance["seconds"]) == {"01_main", "02_other"}
    assert not any("up to date" in line for line in lines)

    again = run(place)
    assert sum("up to date" in line for line in again) == 2


def test_deleting_the_store_gives_the_same_bytes(place):
    run(place)
    tables = place / "out/results/smoke-set/tables"
    before = {**files(tables), **files(tables.parent / "notebooks"), "runs": (tables.parent / "runs.csv").read_bytes()}
    shutil.rmtree(place / "out/runs")
    assert not any("up to date" in line for line in run(place))
    assert before == {
        **files(tables), **files(tables.parent / "notebooks"), "runs": (tables.parent / "runs.csv").read_bytes()
    }  # fmt: skip


def test_a_changed_table_or_notebook_is_made_again_and_nothing_else(place):
    run(place)
    table = place / "out/results/smoke-set/tables/other.md"
    before = table.read_bytes()
    table.write_text("by hand")
    lines = run(place)
    assert "01_main: up to date" in lines and table.read_bytes() == before
    notebook(place / "notebooks/01_main.ipynb", "print(1)")
    lines = run(place)
    assert "02_other: up to date" in lines and "01_main: up to date" not in lines


def test_a_failing_notebook_stops_it_keeps_what_was_and_continues_later(place, capsys):
    notebook(place / "notebooks/02_other.ipynb", "x = 1\nraise ValueError('no')")
    with pytest.raises(NotebookError, match=r"02_other\.ipynb stopped in cell \[.\] \(x = 1\): ValueError: no"):
        run(place)
    folder = place / "out/results/smoke-set"
    assert json.loads((folder / "provenance.json").read_text())["complete"] is False
    assert (folder / "tables/main.md").exists() and (folder / "notebooks/02_other.failed.ipynb").exists()
    where = ["--data", str(place / "set"), "--out", str(place / "out")]
    assert main(["reproduce", "--profile", "smoke", *where, "--quiet"]) == 1
    assert "ValueError: no" in capsys.readouterr().err
    notebook(place / "notebooks/02_other.ipynb", "x = 2")
    assert "01_main: up to date" in run(place)
    assert not (folder / "notebooks/02_other.failed.ipynb").exists()


def test_what_a_killed_job_left_goes(place):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = [f"{folder}/.x.json.{process.pid}.tmp.json" for folder in
            ("results/smoke-set", "results/smoke-set/runs", "figures/smoke-set", "runs/store")]  # fmt: skip
    for name in left:
        (place / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "out" / name).write_text("half")
    run(place, only=["01"])
    assert not [name for name in left if (place / "out" / name).exists()]


def test_only_some_notebooks(place):
    run(place, only=["02"])
    assert not (place / "out/results/smoke-set/tables/main.md").exists()
    with pytest.raises(ConfigError, match=r"No notebook '2_other': choose 01_main, 02_other\. Did you mean '02_other'"):
        choose_notebooks(["2_other"])


def test_records_of_earlier_versions_go(place):
    stale = place / "out/results/smoke-set/runs/weave-seed0-0000000000.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    run(place)
    assert not stale.exists() and len(list(stale.parent.iterdir())) == 1


def test_a_part_of_the_data_has_a_name_of_its_own(place):
    names = [make_job("quick", data, c, s, "", place).name for data, c, s in (
        (None, (), ()), (place / "set", ("a", "b"), ()), (None, (), (0, 2)),
    )]  # fmt: skip
    assert names == ["quick", "quick-set-a-b", "quick-seed0-seed2"]


def test_names_with_commas_keep_their_columns(place):
    (place / "set/weave").rename(place / 'set/we,"ave')
    run(place)
    assert study_module.pd.read_csv(place / "out/results/smoke-set/runs.csv")["category"].tolist() == ['we,"ave']


def test_a_name_may_have_folders_but_does_not_leave_results(place):
    assert job(place, name="real/bottle").results == place / "out/results/real/bottle"
    for name in ("../x", "/x", "a/../../x"):
        with pytest.raises(ConfigError, match="must stay below results"):
            job(place, name=name)


def test_notebooks_see_the_store_results_and_figures(place):
    environment = job(place).environment(CPU)
    assert environment.pop("ADVIT_DEVICE") == "cpu"
    folders = {k: v for k, v in environment.items() if k.startswith("ADVIT")}
    assert {k: Path(v).relative_to(place / "out").as_posix() for k, v in folders.items()} == {
        "ADVIT_STORE": "runs/store", "ADVIT_RESULTS": "results/smoke-set", "ADVIT_FIGURES": "figures/smoke-set"
    }  # fmt: skip
    assert all(map(os.path.isabs, folders.values()))
    assert len(package_digest()) == 64
