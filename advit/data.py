"""Folders of images to lists of samples. Nothing is decoded here.

Three layouts of a category, which is a folder ROOT/NAME:

- ``mvtec`` (MVTec AD): ``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>/<stem>_mask.png``
- ``btad`` (BTAD): ``train/ok``, ``test/ok``, ``test/ko``, ``ground_truth/ko/<stem>.png`` or ``.bmp``
- ``folder``: images in ROOT/NAME itself, all defect-free; or in ROOT/NAME/good, and anomalous ones in ROOT/NAME/bad
  with masks, if any, in ROOT/NAME/masks. Where there is a ``bad``, every fifth of ``good`` is held out for testing.

Test: tests/test_data.py
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from advit.errors import DataError, nearest
from advit.layouts import IMAGE_SUFFIXES, Scan, is_category, is_hidden, scan_folder

__all__ = ["IMAGE_SUFFIXES", "Category", "Sample", "data_digest", "list_categories", "open_category"]
