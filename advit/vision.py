"""The one place torchvision is imported from.

Some package indexes serve a torchvision wheel built for CUDA beside a torch built for the CPU. Importing it then
fails with "operator torchvision::nms does not exist", because the wheel's C++ library, which declares its operators,
does not load. Nothing here uses those operators, so their schemas are declared instead and the import is tried
again. Where torchvision imports as it should, none of this happens. What stays unavailable in the repaired case:
``torchvision.ops.nms`` and torchvision's own image decoders; images are decoded with Pillow.

Test: tests/test_vision.py
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
MISSING = re.compile(r"operator torchvision::(\w+) does not exist")


def import_torchvision(load: Callable[[], ModuleType]) -> tuple[ModuleType, list[Any]]:
    """Import torchvision, declaring operators it misses. Returns the module and the declarations, to be kept alive.

    Raises:
        RuntimeError: as torchvision raised it, if declaring a known operator does not help.

    Test: tests/test_vision.py
    """
    declared: dict[str, Any] = {}
    while True:
        try:
            return load(), list(declared.values())
        except RuntimeError as error:
            found = MISSING.search(str(error))
            if not found or found[1] not in SCHEMAS or found[1] in declared:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT" if declared else "DEF")
            library.define(SCHEMAS[found[1]])
            declared[found[1]] = library
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]


torchvision, _DECLARED = import_torchvision(lambda: importlib.import_module("torchvision"))

from torchvision import tv_tensors  # noqa: E402
from torchvision.datasets import utils as datasets_utils  # noqa: E402
from torchvision.transforms import v2  # noqa: E402
from torchvision.utils import make_grid  # noqa: E402

__all__ = ["datasets_utils", "make_grid", "torchvision", "tv_tensors", "v2"]
