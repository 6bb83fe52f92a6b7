"""What a data set is made of: images with their defect and mask, in categories."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image: its file, its defect (``"good"`` is defect-free) and its mask file, if it has one."""

    path: Path
    defect: str = GOOD
    mask: Path | None = None

    @property
    def is_anomalous(self) -> bool:
        return self.defect != GOOD


@dataclass(frozen=True)
class Category:
    """A category's training images (all defect-free) and test images, each sorted by folder, then stem."""

    name: str
    root: Path
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


@dataclass
class Scan:
    """What a category's folders hold, and everything found wrong with their names."""

    category: Category
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
