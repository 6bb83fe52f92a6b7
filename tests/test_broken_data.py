"""Several hundred broken data sets: each is read, or refused with its file's name and what to do; nothing else."""

import os
import re
import resource
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from broken_data import PLACES, cases, write_sound
from unprivileged import as_user

from advit import cli
from advit.cache import ImageCache
from advit.config import with_options
from advit.data import data_digest, open_category
from advit.data_check import check_category
from advit.errors import AdvitError
from advit.presets import PRESETS

CASES = list(cases())
TINY = with_options(
    PRESETS["quick"],
    dict(image_size=32, patch=8, dim=12, depth=1, heads=3, mlp_dim=16, bottleneck=8, components=2, target_dim=6,
         density_hidden=8, batch_size=4, epochs=1, max_steps=0, evaluation_size=32, precision="float32",
         mask_blocks="1"),
)  # fmt: skip
TO_DO = re.compile(
    r"\b(Re-export|Save|Convert|Scale|Export|Rename|Remove|remove|Move|Put|Pass|Check|expected|Make|lists all)\b"
)


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


SLOW = {place: pytest.mark.slow for place in ("train", "good", "defect")}  # ten seconds each


@pytest.mark.parametrize("place", [pytest.param(p, marks=SLOW.get(p, ())) for p in (*PLACES, "folders")])
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


COMMANDS = [
    "pipe-train", "bomb-good.png", "animated_png-defect.png", "one_column_more-mask.png", "grey_only-mask.bmp",
    "stem_twice_in_train", "not_utf8", "loop_in_test", "mask_missing", "locked", "gif_in_train", "new_line",
]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_say_the_same(root, name, capsys, monkeypatch):
    """``advit data check`` and ``advit train``, with exit status 1 or a warning."""
    by_name = {case.name: case for case in CASES}
    case = by_name[name if name != "locked" else "train_good_without_any_right"]
    monkeypatch.setitem(PRESETS, "quick", TINY)
    write_sound(root / "part")
    for path in (root, *root.rglob("*")):
        os.chmod(path, 0o755)
    case.damage(root / "part")
    out = root / "run"
    with as_user() if name == "locked" else nullcontext():
        checked = cli.main(["data", "check", str(root), "-p", "part"])
        said = capsys.readouterr()
        trained = cli.main(["train", "-p", "part", "--data", str(root), "--out", str(out), "--quiet"])
    error = capsys.readouterr().err
    unlock(root / "part")
    assert "Traceback" not in said.out + said.err + error
    if case.expected == "refused":
        assert checked == trained == 1 and not out.exists()
        assert error.startswith("advit: ") and case.words in error and TO_DO.search(error)
        assert "error: part: " in said.out and case.words in said.out
    else:
        assert checked == trained == 0 and (out / "metrics.json").exists()
        if case.expected == "noted":
            assert "warning: part: 1 files" in said.out and case.words in said.out
            assert error.startswith("advit: warning: ") and case.words in error
