"""The rules for notebooks in the repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advit.errors import NotebookError
from advit.notebooks import PROGRESS, output_texts, outputs_of, read

MOST_LINES = 25
MOST_BYTES = 3_000_000
# An absolute path has two parts or more and stands at the start of a word: 'and/or', '</td>' and URLs do not count.
ABSOLUTE = re.compile(r"""(?:^|[\s"'`(=\[{,:])(/(?:[\w.+-]+/)+[\w.+-]*|[A-Za-z]:\\\w|file://)""", re.MULTILINE)
REMOTE_IMAGE = re.compile(r"""<img[^>]*\bsrc\s*=\s*["']?(?:https?:)?//|!\[[^\]]*\]\(<?(?:https?:)?//""", re.IGNORECASE)
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")


def check(path: Path) -> list[str]:
    """What keeps a notebook from being committed, in words; an empty list if nothing does.

    Executed in order by the kernel python3; a title cell, then one cell of plain parameters; code cells of at most
    MOST_LINES lines; no error, stderr, progress bar, widget state, absolute path, memory address or image from the
    network in the outputs; smaller than MOST_BYTES.

    Test: tests/test_notebooks.py
    """
    try:
        notebook = read(path)
    except NotebookError as error:
        return [str(error)]
    found = [*check_parameters(notebook.cells), *check_code(notebook.cells)]
    for number, _, output in outputs_of(notebook):
        text = "\n".join(output_texts(output))
        faults = {
            "an error": output.output_type == "error",
            "stderr output": output.get("name") == "stderr",
            "a progress bar": PROGRESS.search(text),
            "an absolute path": ABSOLUTE.search(text),
            "a memory address": ADDRESS.search(text),
            "an image from the network": REMOTE_IMAGE.search(text),
        }
        found += [f"cell {number} holds {fault}" for fault, present in faults.items() if present]
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("its kernel is not python3")
    if "widgets" in notebook.metadata:
        found.append("it stores the state of widgets")
    if (size := Path(path).stat().st_size) >= MOST_BYTES:
        found.append(f"it has {size / 1e6:.1f} MB; {MOST_BYTES / 1e6:g} MB are too many")
    return found


def check_parameters(cells: list[Any]) -> Iterator[str]:
    """The title comes first, then the only parameters cell, of plain literals."""
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        yield "the first cell is not a title ('# ...')"
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    if tagged != [1]:
        yield f"there must be one cell tagged 'parameters', the second; tagged are {[i + 1 for i in tagged]}"
    for i in tagged:
        try:
            for statement in ast.parse(cells[i].source).body:
                if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                    raise ValueError
                ast.literal_eval(statement.value)
        except (ValueError, SyntaxError):
            yield f"cell {i + 1} has parameters that are not plain literals"


def check_code(cells: list[Any]) -> Iterator[str]:
    """Code cells are executed in order and short, and there are outputs."""
    code = [(i + 1, cell) for i, cell in enumerate(cells) if cell.cell_type == "code"]
    for expected, (number, cell) in enumerate(code, start=1):
        if cell.execution_count != expected:
            yield f"cell {number} has execution count {cell.execution_count}, not {expected}: run all cells in order"
        if (lines := len(cell.source.splitlines())) > MOST_LINES:
            yield f"cell {number} has {lines} lines; {MOST_LINES} are enough"
    if not any(cell.outputs for _, cell in code):
        yield "no cell has outputs"
