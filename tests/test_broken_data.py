"""Several hundred broken data sets: each is read, or refused with its file's name and what to do; nothing else."""

import os
import re
import resource
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from broken_data import PLACES, cases, write_sound

from advit.cache import ImageCache
from advit.data import data_digest, open_category
from advit.data_check import check_category
from advit.errors import AdvitError

CASES = list(cases())
NOBODY = 65534
TO_DO = re.compile(
    r"\b(Re-export|Save|Convert|Scale|Export|Rename|Remove|remove|Move|Put|Pass|Check|expected|Make|lists all)\b"
)


@contextmanager
def as_user():
    """Without the rights of root, for whom nothing is unreadable."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def outcome(root: Path) -> tuple[str, str, set[Path]]:
    """What the public path makes of a data set: ``read`` or ``refused``, the message, and the files it used."""
    try:
        category = open_category(root, "part")
        for samples, mask_size in ((category.train, None), (category.test, 20)):
            ImageCache(samples, 24, mask_size=mask_size).fill()
        data_digest(category)
    except AdvitError as error:
        return "refused", str(error), set()
    samples = (*category.train, *category.test)
    return "read", "", {p for s in samples for p in (s.path, s.mask) if p}


def judge(case, root):
    """What is wrong with how a case ends, as lines of text."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    there = sum(p.is_file() and not p.name.startswith(".") for p in (root / "part").rglob("*.*"))
    with as_user():
        found, message, used = outcome(root)
        report = check_category(root, "part")
    seconds = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    wrong = []
    if case.expected == "refused" and found != "refused":
        wrong.append("was read")
    if case.expected in ("read", "noted") and found != "read":
        wrong.append(f"was refused: {message}")
    if found == "refused" and not (case.words in message and TO_DO.search(message)):
        wrong.append(f"the message lacks {case.words!r} or what to do: {message}")
    if found == "read" and case.expected == "read" and len(used) != (there if "link" not in case.name else 9):
        wrong.append(f"{len(used)} of {there} files are used")
    if bool(report.errors) != (found == "refused"):
        wrong.append(f"the check differs: {found} {message}, {report.errors}")
    if case.expected == "noted" and not any(case.words in line for line in report.warnings):
        wrong.append(f"no warning of it: {report.warnings}")
    if seconds > 3 or grown > 900:
        wrong.append(f"took {seconds:.1f} s and {grown:.0f} MiB more")
    return [f"{case.name}: {line}" for line in wrong]


@pytest.fixture
def root():
    """A folder that anybody may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="advit-broken-"))
    folder.chmod(0o755)
    yield folder
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o755)
    for path, _, _ in os.walk(folder):  # folders that could not be entered before
        os.chmod(path, 0o755)
    shutil.rmtree(folder, ignore_errors=True)


def unlock(part: Path) -> None:
    """Give the rights back, from the top down."""
    os.chmod(part, 0o755)
    for path in sorted(p for p in part.rglob("*") if p.is_dir() and not p.is_symlink()):
        os.chmod(path, 0o755)


def test_there_are_enough_cases_and_none_twice():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 600
    assert {case.expected for case in CASES} == {"read", "refused", "noted", "either"}


@pytest.mark.parametrize("place", [*PLACES, "folders"])
def test_broken_data_are_read_or_refused_by_name(root, place):
    wrong = []
    for i, case in enumerate(case for case in CASES if case.place == place):
        folder = root / f"{i:03d}"
        write_sound(folder / "part")
        for path in (folder, *folder.rglob("*")):
            os.chmod(path, 0o755)
        case.damage(folder / "part")
        wrong += judge(case, folder)
        unlock(folder / "part")
        shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)
