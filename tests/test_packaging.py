"""The files around the package agree with each other, and its modules with the rules of the house."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from advit.native import SOURCES

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "advit").glob("*.py"))
MAY_PRINT = {"cli", "cli_data", "cli_reproduce", "__main__"}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment_text() -> str:
    return (ROOT / "environment.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def environment(environment_text) -> dict:
    return yaml.safe_load(environment_text)


def dependency_names(project: dict) -> list[str]:
    """Names of every dependency, those of the extras included, without the package itself."""
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    names = [Requirement(line).name for line in project["dependencies"] + extras]
    return [name for name in names if name != project["name"]]


def imported_modules(path: Path) -> set[str]:
    """Modules of advit that a file imports, at its top or inside a function."""
    names = {p.stem for p in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            dotted = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {d.split(".")[1] for d in dotted if d.startswith("advit.") and d.split(".")[1] in names}
    return found


def test_environment_installs_the_project_with_its_constraints(environment):
    assert environment["name"] == "advit"
    assert environment["channels"] == ["conda-forge"]
    *plain, pip = environment["dependencies"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    assert [Requirement(line).name for line in plain] == ["python", "pip"]


def test_environment_asks_for_the_python_of_pyproject(environment, project):
    assert environment["dependencies"][0] == f"python{project['requires-python']}"


def test_environment_explains_each_dependency_once_and_no_other(environment_text, project):
    explained = re.findall(r"^# ([a-z0-9-]+): \S", environment_text, flags=re.MULTILINE)
    assert sorted(explained) == sorted(dependency_names(project))


def test_constraints_are_exact_versions_of_dependencies(project):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {"torch", "torchvision"} <= {pin.name for pin in pins} <= set(dependency_names(project))
    wanted = {r.name: r for r in map(Requirement, project["dependencies"])}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert wanted[pin.name].specifier.contains(specifier.version)


def test_what_a_package_holds_besides_modules_is_installed_with_it():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    others = {p.name for p in (ROOT / "advit").iterdir() if p.is_file() and p.suffix != ".py"}
    assert others == set(tools["package-data"]["advit"]) == {path.name for path in SOURCES}


def test_dev_includes_the_other_extras(project):
    extras = project["optional-dependencies"]
    included = [r.extras for r in map(Requirement, extras["dev"]) if r.name == "advit"]
    assert included == [set(extras) - {"dev"}]


def test_licence_is_the_whole_apache_licence(project):
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    clauses = [int(n) for n in re.findall(r"^   (\d)\. [A-Z]", text, flags=re.MULTILINE)]
    assert clauses == list(range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text


def test_version_is_that_of_the_installed_package(project):
    assert version("advit") == project["version"]


def test_modules_import_without_a_word():
    names = [f"advit.{p.stem}" if p.stem != "__init__" else "advit" for p in MODULES]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_modules_import_each_other_in_one_direction():
    graph = {path.stem: imported_modules(path) for path in MODULES}
    assert graph["cli"] >= {"config", "errors"}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
    assert order.index("errors") < order.index("cli") < order.index("__main__")


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem not in MAY_PRINT], ids=lambda p: p.stem)
def test_only_the_command_line_prints(path):
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    lines = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert lines == [], f"{path.name} prints in lines {lines}"


def test_makefile_lists_every_target_it_has():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = re.findall(r"^([a-z]+):[^=\n]*## \S", text, flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE).group(1).split()
    assert described == phony
    assert re.search(r"^\.DELETE_ON_ERROR:$", text, flags=re.MULTILINE)


def test_the_citation_names_the_version_of_the_package(project):
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert cited["cff-version"] == "1.2.0" and cited["title"] and cited["authors"]
