"""notebooks.py: runs leave equal bytes, failures say where, and the notebooks of the repository keep the rules."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advit.errors import AdvitError, NotebookError
from advit.notebook_rules import check
from advit.notebooks import WIDGET, clean, execute, notebook_paths

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
v4 = nbformat.v4

ROOT = Path(__file__).parents[1]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PARAMETERS = "profile = 'smoke'  # or quick\nseeds = []"
NOISY = """import os, sys, time
from tqdm import tqdm
from tqdm.auto import tqdm as auto
for _ in tqdm(range(2), file=sys.stdout): pass
for _ in auto(range(2)): pass
print("warned", file=sys.stderr)
print(profile, seeds); time.sleep(0.02); print("b")"""


def write(path: Path, *code: str, parameters: str | None = PARAMETERS) -> Path:
    """A notebook of a title, a parameters cell and cells of code, not executed."""
    cells = [v4.new_markdown_cell("# A title\n\nWhat does it do?")]
    if parameters is not None:
        cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [v4.new_code_cell(source) for source in code]
    path.write_text(nbformat.writes(v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})))
    return path


def run(source: Path, target: Path, parameters: dict, **options) -> None:
    options = {"environment": {}, "cwd": source.parent, "progress": False, "timeout": 60, **options}
    execute(source, target, parameters, **options)


def printed(path: Path) -> str:
    return "".join(o.get("text", "") for c in nbformat.read(path, 4).cells for o in c.get("outputs", []))


def test_notebooks_are_found_by_number(tmp_path):
    for name in ("10_b.ipynb", "02_a.ipynb", "02_a.failed.ipynb", "notes.ipynb", "03_c.py"):
        (tmp_path / name).write_text("")
    assert [p.name for p in notebook_paths(tmp_path)] == ["02_a.ipynb", "10_b.ipynb"]
    assert notebook_paths(tmp_path / "none") == []


@pytest.mark.slow
def test_two_runs_are_equal_bytes_by_this_interpreter(tmp_path, monkeypatch, capfd):
    """Another python3 kernel that the user has registered, and comes first, is passed over."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    foreign.joinpath("kernel.json").write_text(json.dumps({**KERNEL, "argv": ["/bin/false", "{connection_file}"]}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    (tmp_path / "deep {x}").mkdir()
    probe = "print(sys.executable); print(os.environ['ADVIT_TEST'], os.path.basename(os.getcwd()))\n"
    source = write(tmp_path / "01_a.ipynb", NOISY, probe + "os.getpid() > 0", "print(1)")
    before, here = source.read_bytes(), os.getcwd()
    targets = [tmp_path / "out" / "01_a.ipynb", tmp_path / "deep {x}" / "other.ipynb"]
    for target in targets:
        options = {"environment": {"ADVIT_TEST": "a $HOME"}, "cwd": tmp_path / "deep {x}"}
        run(source, target, {"profile": "quick", "seeds": [1, 2]}, **options)
        assert list(target.parent.iterdir()) == [target]
    assert "".join(capfd.readouterr()) == ""
    first, second = (t.read_bytes() for t in targets)
    assert first == second and source.read_bytes() == before and os.getcwd() == here
    assert printed(targets[0]) == f"quick [1, 2]\nb\n{sys.executable}\na $HOME deep {{x}}\n1\n"
    notebook = nbformat.reads(first.decode(), 4)
    left = json.dumps([notebook.metadata, [(c.metadata, c.get("outputs")) for c in notebook.cells]])
    assert not [word for word in ("papermill", "duration", "iopub", "widget", "warned", "it/s") if word in left]
    nbformat.validate(notebook)
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert notebook.cells[4].outputs[-1].data["text/plain"] == "True"


@pytest.mark.parametrize(
    ("names", "cell", "message"),
    [
        (["profil"], PARAMETERS, r"01_a.ipynb has no parameter 'profil'. Did you mean 'profile'?"),
        (["profile", "zzz"], PARAMETERS, "01_a.ipynb has no parameter 'zzz'. It has: profile, seeds."),
        (["seeds"], None, "01_a.ipynb has no cell tagged 'parameters', so it takes none."),
        (["seeds"], "seeds = [", "01_a.ipynb has a parameters cell that is not Python: '[' was never closed."),
    ],
)
def test_unknown_parameters_are_refused_before_anything_runs(tmp_path, names, cell, message):
    source = write(tmp_path / "01_a.ipynb", "open('ran', 'w')", parameters=cell)
    with pytest.raises(NotebookError) as caught:
        run(source, tmp_path / "out" / "01_a.ipynb", dict.fromkeys(names, 1))
    assert str(caught.value) == f"{tmp_path}/{message}"
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("\ndef f():\n    raise ValueError('too\\nbad')\nf()", "in cell [2] (def f():): ValueError: too bad."),
        ("import sys\nsys.exit(0)", "in cell [2] (import sys): SystemExit: 0."),
        ("import time; time.sleep(60)", "in cell [2] (import time; time.sleep(60)): it took longer than 2 s."),
        ("import os; os._exit(1)", "in cell [2] (import os; os._exit(1)): Kernel died, perhaps for lack of memory."),
    ],
)
def test_a_failing_cell_is_named_and_the_copy_kept(tmp_path, code, message):
    source, target = write(tmp_path / "01_a.ipynb", code, "print('after')"), tmp_path / "out" / "01_a.ipynb"
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(NotebookError) as caught:
        run(source, target, {}, timeout=2)
    failed = tmp_path / "out" / "01_a.failed.ipynb"
    assert str(caught.value).startswith(f"{source} stopped {message}")
    assert str(caught.value).endswith(f"The copy that was executed is {failed}")
    assert "after" not in printed(failed) and target.read_text() == "old"
    assert sorted(p.name for p in target.parent.iterdir()) == ["01_a.failed.ipynb", "01_a.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("writes", [0, 1, 4], ids=["at once", "before a cell", "after a cell"])
def test_a_full_disk_is_named_and_no_copy_left(tmp_path, monkeypatch, writes):
    from papermill.iorw import LocalHandler

    write_whole, written = LocalHandler.write, []

    def full(handler, text, path):
        written.append(path)
        if len(written) <= writes:
            return write_whole(handler, text, path)
        Path(path).write_text(text[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalHandler, "write", full)
    source, target = write(tmp_path / "01_a.ipynb", "print(1)"), tmp_path / "out" / "01_a.ipynb"
    with pytest.raises(AdvitError) as caught:
        run(source, target, {})
    why = "No space left on device. Free some space or choose another folder."
    assert str(caught.value) == f"Cannot write {target.with_name('01_a.running.ipynb')}: {why}"
    assert list(target.parent.iterdir()) == [] and written


@pytest.mark.slow
def test_a_good_run_removes_the_failed_copy(tmp_path):
    failed = tmp_path / "out" / "01_a.failed.ipynb"
    failed.parent.mkdir()
    failed.write_text("")
    run(write(tmp_path / "01_a.ipynb", "1"), tmp_path / "out" / "01_a.ipynb", {})
    assert [p.name for p in failed.parent.iterdir()] == ["01_a.ipynb"]


@pytest.mark.slow
def test_ctrl_c_ends_run_and_kernel(tmp_path):
    source = write(tmp_path / "01_a.ipynb", "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    code = (
        "import signal, sys; from pathlib import Path; from advit.notebooks import execute\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "source = Path(sys.argv[1])\n"
        "try: execute(source, source.parent / 'out' / 'a.ipynb', {}, environment={}, cwd=source.parent)\n"
        "except KeyboardInterrupt: sys.exit(77)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(source)])
    pid = tmp_path / "pid"
    try:
        for _ in range(300):
            if pid.exists() and pid.read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 77
    finally:
        process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert list((tmp_path / "out").iterdir()) == []


def test_cleaning_drops_what_differs_and_keeps_the_rest():
    image = {"image/png": "AAAA", "text/plain": "<Figure>"}
    cell = v4.new_code_cell(
        "x",
        execution_count=7,
        metadata={"tags": ["t"], "execution": {"iopub.status.idle": "2024"}, "papermill": {}},
        outputs=[
            v4.new_output("stream", name="stdout", text="a\n"),
            v4.new_output("stream", name="stderr", text="warning"),
            v4.new_output("stream", name="stdout", text="b 1%\rb 2%\n  0%|  | 0/3\r 50%|# | 2/3\nc"),
            v4.new_output("display_data", data={WIDGET: {"model_id": "1f"}, "text/plain": "interactive()"}),
            v4.new_output("display_data", data={"text/plain": " 10%|#   | 1/10 [00:00<?, ?it/s]"}),
            v4.new_output("display_data", data=image, metadata={"alt": "a picture"}),
            v4.new_output("execute_result", data={"text/plain": "5"}, execution_count=7),
        ],
    )
    mark = v4.new_markdown_cell("error", metadata={"tags": ["papermill-error-cell-tag"]})
    notebook = v4.new_notebook(cells=[mark, v4.new_code_cell(""), cell], metadata={"widgets": {}, "papermill": {}})
    text = nbformat.writes(notebook)
    result = clean(notebook)
    nbformat.validate(result)
    assert nbformat.writes(notebook) == text, "the argument was changed"
    assert result.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    empty, kept = result.cells
    assert (empty.id, kept.id, kept.metadata) == ("cell-00", "cell-01", {"tags": ["t"]})
    assert (empty.execution_count, kept.execution_count, kept.outputs[-1].execution_count) == (None, 1, 1)
    stream, picture, value = kept.outputs
    assert stream.text == "a\nb 2%\nc"
    assert picture.data == image and picture.metadata == {"alt": "a picture"}
    assert value.data["text/plain"] == "5"
    assert clean(result) == result


def good() -> dict:
    """A notebook without a fault."""
    parameters = v4.new_code_cell(PARAMETERS, execution_count=1, metadata={"tags": ["parameters"]})
    out = v4.new_output("stream", name="stdout", text="and/or 1/2 </td> https://a.org/b/c KL(P || S)/N/2\n")
    code = v4.new_code_cell("print(1)", execution_count=2, outputs=[out])
    cells = [v4.new_markdown_cell("# A title"), parameters, code]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def show(text: str, kind: str = "text/plain"):
    return lambda n: n.cells[2].outputs.append(v4.new_output("display_data", data={kind: text}))


def say(name: str, text: str):
    return lambda n: n.cells[2].outputs.append(v4.new_output("stream", name=name, text=text))


FAULTS = {
    "cell 3 has execution count None, not 2: run all cells in order": lambda n: n.cells[2].update(execution_count=None),
    "cell 3 has execution count 3, not 2: run all cells in order": lambda n: n.cells[2].update(execution_count=3),
    "no cell has outputs": lambda n: n.cells[2].update(outputs=[]),
    "the first cell is not a title ('# ...')": lambda n: n.cells[0].update(source="A title"),
    "there must be one cell tagged 'parameters', the second; tagged are []": lambda n: n.cells[1].update(metadata={}),
    "cell 2 has parameters that are not plain literals": lambda n: n.cells[1].update(source="seed = 1\nn = seed + 1"),
    "cell 3 holds stderr output": say("stderr", "warning"),
    "cell 3 holds a progress bar": say("stdout", " 40%|####      | 2/5 [00:01<00:01]"),
    "cell 3 holds an absolute path": show("saved to /home/me/runs"),
    "cell 3 holds an absolute path ": show(r"C:\Users\me"),
    "cell 3 holds an absolute path  ": show("<img src='/tmp/x/y.png'>", "text/html"),
    "cell 3 holds a memory address": show("<object object at 0x7f0e2c0d2d60>"),
    "cell 3 holds an image from the network": show('<img alt="" src="https://a.org/x.png">', "text/html"),
    "cell 3 holds an image from the network ": show("![x](http://a.org/x.png)", "text/markdown"),
    "cell 3 has 26 lines; 25 are enough": lambda n: n.cells[2].update(source="\n".join("x" * 26)),
    "its kernel is not python3": lambda n: n.metadata.kernelspec.update(name="ir"),
    "it stores the state of widgets": lambda n: n.metadata.update(widgets={"state": {}}),
    "it has 3.1 MB; 3 MB are too many": show("x" * 3_100_000),
    "cell 3 holds an error": lambda n: n.cells[2].outputs.append(v4.new_output("error", ename="E", evalue="e")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone(tmp_path, fault):
    notebook = good()
    FAULTS[fault](notebook)
    (tmp_path / "01_a.ipynb").write_text(nbformat.writes(notebook))
    assert check(tmp_path / "01_a.ipynb") == [fault.strip()]


def test_a_good_notebook_passes_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "01_a.ipynb").write_text(nbformat.writes(good()))
    (tmp_path / "02_b.ipynb").write_text('{"cells": [')
    assert check(tmp_path / "01_a.ipynb") == []
    assert "02_b.ipynb cannot be read as a notebook" in check(tmp_path / "02_b.ipynb")[0]


@pytest.mark.parametrize("path", notebook_paths(ROOT / "notebooks"), ids=lambda p: p.stem)
def test_notebooks_of_the_repository_keep_the_rules(path):
    assert check(path) == []


def test_the_core_imports_without_the_extra():
    missing = "papermill", "nbformat", "nbconvert", "nbclient", "jupyter_client", "ipykernel", "bs4", "bleach", "jinja2"
    code = f"import sys\nfor n in {missing}: sys.modules[n] = None\nimport advit.notebooks as n, pathlib\n"
    code += "try: n.execute(pathlib.Path('a'), pathlib.Path('b'), {}, environment={}, cwd=pathlib.Path())\n"
    code += "except n.NotebookError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "papermill is not installed. Get it with: pip install 'advit[notebooks]'\n", done.stderr
