"""README.md: its numbers are those of the records, its links exist, its commands parse."""

import re
import shlex
from pathlib import Path

import pytest

from advit.cli import build_parser
from advit.readme import MARKERS, results_block

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_results_are_those_of_the_records():
    found = MARKERS.search(README)
    assert found[0] == found[1] + results_block(ROOT / "results") + found[2], "run 'make readme'"


def test_every_linked_and_named_file_exists():
    names = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(advit/\w+\.py)`", README)
    names += [f"tests/{name}.py" for name in re.findall(r"`(test_\w+)`", README)]
    assert len(names) > 15
    assert [n for n in names if not (ROOT / n).exists()] == []


def test_every_command_parses():
    commands = re.findall(r"^\.venv/bin/advit (.+?)(?:  +#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        arguments = shlex.split(command)
        if "--help" in arguments:
            with pytest.raises(SystemExit):
                build_parser().parse_args(arguments)
        else:
            build_parser().parse_args(arguments)


def test_every_test_that_a_docstring_names_exists():
    named = {
        (path.name, test)
        for path in (ROOT / "advit").glob("*.py")
        for test in re.findall(r"(tests/\w+\.py)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert sorted(n for n in named if not (ROOT / n[1]).exists()) == []
