"""Running notebooks with other parameters, and cleaning what they leave."""

from __future__ import annotations

import ast
import importlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from advit.errors import AdvitError, NotebookError, nearest
from advit.files import write_text

WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"\d+%\|.*\||\d+(?:it)? ?\[\d\d:\d\d")  # tqdm, with and without a known total


def require(*modules: str) -> None:
    """Import what only notebooks need.

    Raises:
        NotebookError: with the command that installs it.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise NotebookError(f"{name} is not installed. Get it with: pip install 'advit[notebooks]'") from error


def notebook_paths(folder: Path) -> list[Path]:
    """The numbered notebooks ``NN_name.ipynb`` of a folder, sorted; not copies such as ``01_a.failed.ipynb``."""
    return sorted(path for path in Path(folder).glob("*.ipynb") if re.fullmatch(r"\d\d_[^.]+\.ipynb", path.name))


def parameter_names(notebook: Any) -> list[str] | None:
    """Names that the cell tagged ``parameters`` assigns; None if there is no such cell."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            body = ast.parse(cell.source).body
            targets = [t for s in body for t in getattr(s, "targets", [getattr(s, "target", None)])]
            return [t.id for t in targets if isinstance(t, ast.Name)]
    return None


def execute(
    source: Path, target: Path, parameters: dict[str, Any], *, environment: dict[str, str], cwd: Path,
    timeout: int | None = None, progress: bool = True,
) -> None:  # fmt: skip
    """Run a copy of ``source`` with papermill and write it, cleaned, to ``target`` in one go.

    The kernel is the interpreter that calls this, whatever kernels the user has installed. While it runs, the copy is
    ``NAME.running.ipynb`` beside ``target``; if a cell fails it stays there as ``NAME.failed.ipynb``.

    Args:
        parameters: values for names that the notebook's ``parameters`` cell assigns; no others.
        environment: variables for the kernel, on top of those of this process.
        cwd: the folder that the kernel runs in.
        timeout: seconds that one cell may take; None: as long as it likes.
        progress: show a bar that counts cells.

    Raises:
        NotebookError: before running, for an unknown parameter (papermill only warns); for a cell that fails, takes
            too long, ends the kernel or leaves early, with the cell, the error and the place of the copy.
        AdvitError: if the disk is full or cannot be written to; no copy is left.

    Test: tests/test_notebooks.py
    """
    require("papermill", "ipykernel")
    import papermill
    from papermill.exceptions import PapermillExecutionError

    source, target, cwd = Path(source), Path(target), Path(cwd).resolve()
    notebook = read(source)
    refuse_unknown(source, notebook, parameters)
    running, failed = (target.with_name(f"{target.stem}.{state}.ipynb") for state in ("running", "failed"))
    target.parent.mkdir(parents=True, exist_ok=True)
    why = None
    try:
        papermill.execute_notebook(
            notebook,
            str(running.resolve()).replace("{", "{{").replace("}", "}}"),  # papermill formats paths
            parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=kernel_of_this_interpreter(environment),
            progress_bar={"desc": source.stem, "unit": "cell"} if progress else False,
            cwd=str(cwd),
            execution_timeout=timeout,
        )
        executed = read(running)
        if first_error(executed) is None:
            write_notebook(target, clean(executed))
            failed.unlink(missing_ok=True)
            running.unlink()
            return
    except TimeoutError:
        why = f"it took longer than {timeout} s"
    except PapermillExecutionError:
        pass  # the error is in the copy
    except RuntimeError as error:
        why = f"{one_line(str(error))}, perhaps for lack of memory"
    except OSError as error:  # papermill writes the copy after every cell
        running.unlink(missing_ok=True)
        what = f"{error.filename or running}: {error.strerror or error}"
        raise AdvitError(f"Cannot write {what}. Free some space or choose another folder.") from error
    except BaseException:  # Ctrl-C
        running.unlink(missing_ok=True)
        raise
    os.replace(running, failed)
    raise NotebookError(f"{source} stopped {where(read(failed), why)}. The copy that was executed is {failed}")


def kernel_of_this_interpreter(environment: dict[str, str]) -> type:
    """A kernel manager that starts ``sys.executable``, whichever ``python3`` kernel is registered."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets import TraitError

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

        async def start_kernel(self, **options: Any) -> None:
            if self.has_trait("transport_encryption"):  # without it, newer kernels warn
                with suppress(TraitError):  # this zmq cannot
                    self.transport_encryption = "auto"
            await super().start_kernel(**options, env={**os.environ, **environment})

    return ThisInterpreter


def refuse_unknown(source: Path, notebook: Any, parameters: dict[str, Any]) -> None:
    """Raise NotebookError for the first parameter that the notebook does not define."""
    try:
        known = parameter_names(notebook)
    except SyntaxError as error:
        raise NotebookError(f"{source} has a parameters cell that is not Python: {error.msg}.") from error
    if parameters and known is None:
        raise NotebookError(f"{source} has no cell tagged 'parameters', so it takes none.")
    for name in parameters:
        if name not in known:
            hint = nearest(name, known) or f" It has: {', '.join(known)}."
            raise NotebookError(f"{source} has no parameter {name!r}.{hint}")


def first_error(notebook: Any) -> tuple[Any, Any] | None:
    """The first cell with an error among its outputs, and that output."""
    errors = ((cell, output) for _, cell, output in outputs_of(notebook) if output.output_type == "error")
    return next(errors, None)


def where(notebook: Any, why: str | None) -> str:
    """In which cell a run ended and why, by default as the copy says; the number is that of ``In [ ]``."""
    if why is None and (found := first_error(notebook)):
        cell, output = found
        why, number = f"{output.ename}: {one_line(output.evalue)}".rstrip(": "), cell.execution_count
    else:  # the kernel was ended, and with it the count
        started = [c for c in notebook.cells if c.cell_type == "code" and c.metadata.papermill.start_time]
        if not started:
            return f"before its first cell: {why}"
        cell, number = started[-1], len(started)
    line = next((line.strip() for line in cell.source.splitlines() if line.strip()), "")
    return f"in cell [{number}] ({line[:100]}): {why}"


def one_line(text: str, most: int = 400) -> str:
    """The text on one line, without terminal colours, cut if it is long."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def outputs_of(notebook: Any) -> Iterator[tuple[int, Any, Any]]:
    """Every output with the place of its cell, counted from 1, and the cell."""
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            yield number, cell, output


def output_texts(output: Any) -> list[str]:
    """What an output says as text, HTML or Markdown."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [output.evalue, *output.traceback]
    return [value for kind, value in output.data.items() if kind.startswith("text/") and isinstance(value, str)]


def clean(notebook: Any) -> Any:
    """A copy of a notebook without what differs between two runs of equal results.

    Kept: sources, tags, what cells print and show. Numbered anew: cells and executions. Dropped: times, paths and
    settings in metadata, widgets and their state, what goes to stderr, progress bars, papermill's own error marks.

    Test: tests/test_notebooks.py
    """
    import nbformat

    cells, count = [], 0
    for cell in nbformat.v4.upgrade(nbformat.from_dict(notebook)).cells:
        tags = cell.metadata.get("tags", [])
        if "papermill-error-cell-tag" in tags:
            continue
        kept = nbformat.from_dict({**cell, "id": f"cell-{len(cells):02d}", "metadata": {"tags": tags} if tags else {}})
        if cell.cell_type == "code":
            count += cell.execution_count is not None
            kept.execution_count = count if cell.execution_count is not None else None
            kept.outputs = clean_outputs(cell.outputs, kept.execution_count)
        cells.append(kept)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def clean_outputs(outputs: list[Any], count: int | None) -> list[Any]:
    """Outputs without stderr, widgets and progress bars; pieces of one stream joined, however they arrived."""
    import nbformat

    kept = []
    for output in map(nbformat.from_dict, outputs):
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif WIDGET in output.get("data", {}) or PROGRESS.search(output.get("data", {}).get("text/plain", "")):
            continue
        elif output.output_type == "execute_result":
            output.execution_count = count
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":  # a carriage return overwrites its line
            lines = [line.rstrip("\r").rsplit("\r")[-1] for line in output.text.split("\n")]
            output.text = "\n".join(line for line in lines if not PROGRESS.search(line))
    return [output for output in kept if output.output_type != "stream" or output.text]


def read(path: Path) -> Any:
    """A notebook file as an nbformat node, version 4.

    Raises:
        NotebookError: if it is missing or not a notebook.
    """
    import nbformat

    try:
        return nbformat.v4.upgrade(nbformat.reads(Path(path).read_text(encoding="utf-8"), as_version=4))
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise NotebookError(f"{path} cannot be read as a notebook: {one_line(str(error), 200)}") from error


def write_notebook(path: Path, notebook: Any) -> None:
    """Write a notebook whole or not at all."""
    import nbformat

    write_text(path, nbformat.writes(notebook) + "\n")


def refresh(folder: Path) -> None:
    """Run every notebook of a folder with the parameters it has, and keep its outputs in it."""
    for path in notebook_paths(folder):
        copy = path.with_name(f"{path.stem}.fresh.ipynb")
        execute(path, copy, {}, environment={}, cwd=folder)
        os.replace(copy, path)


if __name__ == "__main__":
    refresh(Path(__file__).resolve().parents[1] / "notebooks")
