"""vision.py: torchvision imports as it is, and where its wheel does not match torch."""

import subprocess
import sys
import textwrap
from types import ModuleType, SimpleNamespace

import pytest
import torch

from advit import vision
from advit.vision import import_torchvision, make_grid, tv_tensors, v2


@pytest.fixture
def sandbox(monkeypatch):
    """vision.py without access to torch's operator registry or to the modules imported here."""
    made = []

    class Library:
        def __init__(self, namespace, kind):
            self.namespace, self.kind, self.schemas = namespace, kind, []
            made.append(self)

        def define(self, schema):
            self.schemas.append(schema)

    modules = {"torchvision": 1, "torchvision.ops": 2, "torchvision_like": 3, "torch": 4}
    monkeypatch.setattr(vision, "torch", SimpleNamespace(library=SimpleNamespace(Library=Library)))
    monkeypatch.setattr(vision, "sys", SimpleNamespace(modules=modules))
    return SimpleNamespace(made=made, modules=modules)


def loader(*errors):
    """Raises these errors, one a call, then returns a module."""
    left = list(errors)

    def load():
        if left:
            raise left.pop(0)
        return ModuleType("torchvision")

    return load


def missing(name):
    return RuntimeError(f"operator torchvision::{name} does not exist")


def test_a_torchvision_that_imports_is_left_alone(sandbox):
    module, declared = import_torchvision(loader())
    assert module.__name__ == "torchvision" and declared == [] and sandbox.made == []
    assert len(sandbox.modules) == 4


def test_a_missing_operator_is_declared_and_the_import_tried_again(sandbox):
    module, declared = import_torchvision(loader(missing("nms")))
    assert module.__name__ == "torchvision" and declared == sandbox.made
    (library,) = sandbox.made
    assert (library.namespace, library.kind) == ("torchvision", "DEF")
    assert library.schemas == ["nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"]
    assert set(sandbox.modules) == {"torchvision_like", "torch"}  # half-imported torchvision modules are forgotten


def test_two_missing_operators_share_the_namespace(sandbox):
    _, declared = import_torchvision(loader(missing("nms"), missing("qnms")))
    assert [(d.kind, d.schemas[0].split("(")[0]) for d in declared] == [("DEF", "nms"), ("FRAGMENT", "qnms")]


@pytest.mark.parametrize(
    "errors",
    [
        [RuntimeError("CUDA driver version is insufficient")],
        [missing("roi_align")],  # an operator whose schema is not known here
        [missing("nms"), missing("nms")],  # declared, and it did not help
        [ImportError("No module named 'torchvision'")],
    ],
)
def test_any_other_error_passes_through(sandbox, errors):
    with pytest.raises(type(errors[-1]), match=str(errors[-1])):
        import_torchvision(loader(*errors))


def test_the_import_is_repaired_in_a_fresh_interpreter(tmp_path):
    """A stand-in for the package raises torch's own error, from the same registration that torchvision makes."""
    files = {
        "__init__.py": "import torch\nfor name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake(f'torchvision::{name}')(lambda dets, *_: dets)\n",
        "tv_tensors.py": "",
        "utils.py": "make_grid = None",
        "datasets/__init__.py": "",
        "datasets/utils.py": "",
        "transforms/__init__.py": "",
        "transforms/v2.py": "here = True",
    }
    for name, text in files.items():
        path = tmp_path / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code = """
        import sys; sys.path.insert(0, sys.argv[1])
        from advit.vision import _DECLARED, torchvision, v2
        assert torchvision.__file__.startswith(sys.argv[1]) and v2.here
        print([library.kind for library in _DECLARED])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "['DEF', 'FRAGMENT']"


def test_what_is_used_of_torchvision_works_here():
    image = tv_tensors.Image(torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4))
    assert v2.functional.resize(image, [2, 2]).shape == (3, 2, 2)
    assert make_grid([torch.zeros(3, 4, 4)] * 2, padding=0).shape == (3, 4, 8)
