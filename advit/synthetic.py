"""The embedded data set: four made-up products in the layout of MVTec AD, drawn from a seed in seconds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from advit.errors import AdvitError, ConfigError, DataError, nearest
from advit.files import exclusive
from advit.remains import sweep
from advit.synthetic_defects import DEFECTS, Thing, add_defect
from advit.synthetic_objects import Canvas, Connector, Gear
from advit.synthetic_textures import Terrazzo, Weave

VERSION = 1  # raise it whenever a pixel changes
MANIFEST = "synthetic.json"
THINGS: dict[str, type[Thing]] = {"connector": Connector, "gear": Gear, "weave": Weave, "terrazzo": Terrazzo}
CATEGORIES = tuple(THINGS)
PLAN = ("format", "version", "seed", "categories", "image_size", "n_train", "n_test_good", "n_per_defect")
STREAMS = ("train", "good", *DEFECTS)

README = """Synthetic products with synthetic defects, in the layout of MVTec AD
===================================================================

Written by advit (`advit data synth`), generator version {version}, seed {seed}.
Categories: {categories}. Images: {size} x {size} pixels, RGB.

train/good holds defect-free images; test/good and test/<defect> the images to judge;
ground_truth/<defect>/000_mask.png is 255 on the pixels that the defect visibly changed (gaps
up to two pixels wide between them are closed); outside it not one pixel differs.
Everything here was computed; nothing was photographed, and no product is real.

Licence: CC0 1.0 (public domain dedication), https://creativecommons.org/publicdomain/zero/1.0/
"""


@dataclass(frozen=True)
class Picture:
    """``image`` (h, w, 3) uint8 of one thing, the ``mask`` (h, w) bool of its defect, and ``clean``, its sound twin."""

    image: np.ndarray
    mask: np.ndarray
    clean: np.ndarray


def defects_of(category: str) -> tuple[str, ...]:
    """The kinds of defect of a category: nothing in a terrazzo slab can be bent."""
    return tuple(kind for kind in DEFECTS if (category, kind) != ("terrazzo", "bent_part"))


def photograph(category: str, stream: str, index: int, *, seed: int = 0, image_size: int = 256) -> Picture:
    """Draw image ``index`` of a stream: "train", "good" (of the test set), or a kind of defect.

    image = round(255 * (drawing * light + noise)), with light and noise shared by the image and its defect-free twin:
    outside the mask both are equal. The random state depends on seed, category, stream and index alone, so a part of a
    data set has the pixels of the whole. Raises ConfigError for a category or stream it does not know.
    Test: tests/test_synthetic.py
    """
    known = ("train", "good", *defects_of(check_category(category)))
    if stream not in known:
        raise ConfigError(f"{category} has no stream {stream!r}; known: {', '.join(known)}.{nearest(stream, known)}")
    key = [seed, CATEGORIES.index(category), STREAMS.index(stream), index]
    scene, harm, camera = (np.random.default_rng(s) for s in np.random.SeedSequence(key).spawn(3))
    canvas = Canvas.of(image_size)
    thing = THINGS[category].sample(scene, canvas)
    clean, body = thing.draw(canvas)
    drawn, mask = clean, np.zeros(clean.shape[:2], bool)
    if stream in DEFECTS:
        drawn, mask = add_defect(stream, thing, canvas, clean, body, harm)
    light, noise = sample_camera(camera, canvas)
    clean = np.rint(255 * np.clip(clean * light + noise, 0, 1)).astype(np.uint8)
    image = clean.copy()
    image[mask] = np.rint(255 * np.clip(drawn[mask] * light[mask] + noise[mask], 0, 1))
    return Picture(image, mask, clean)


def sample_camera(rng: np.random.Generator, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Light (h, w, 3) to multiply by: exposure, colour cast, slope, vignette; sensor noise (h, w, 3) to add."""
    x, y = canvas.x / 128 - 1, canvas.y / 128 - 1
    slope = rng.normal(0, 0.03, 2)
    field = 1 + slope[0] * x + slope[1] * y - rng.uniform(0.04, 0.07) * (x * x + y * y)
    light = field[..., None] * rng.normal(1, 0.035) * rng.normal(1, 0.012, 3)
    shape = (canvas.size, canvas.size)
    grain = rng.standard_normal((*shape, 1)) + 0.5 * rng.standard_normal((*shape, 3))
    return light, rng.uniform(0.008, 0.014) * grain


def write_dataset(
    out: Path,
    seed: int = 0,
    *,
    categories: Sequence[str] | None = None,
    image_size: int = 256,
    n_train: int = 60,
    n_test_good: int = 20,
    n_per_defect: int = 8,
    progress: bool = False,
) -> Path:
    """Write the data set under ``out`` and return ``out``; a complete one of the same arguments is left as it is.

    Layout: ``out/<category>/{train,test}/good/000.png``, ``out/<category>/test/<defect>/000.png`` and
    ``out/<category>/ground_truth/<defect>/000_mask.png`` (0 or 255). The files appear under a temporary name beside
    ``out`` and are renamed at the end, so an interrupted call leaves nothing half-written. One process writes at a
    time; another waits and takes what the first has written.

    Raises ConfigError for an unknown category or a count that makes no sense, DataError if ``out`` holds anything that
    is not a data set written by this function (one of other arguments is replaced), AdvitError if the disk is full or
    cannot be written to. Test: tests/test_synthetic.py
    """
    out = Path(out)
    names = [check_category(name) for name in (CATEGORIES if categories is None else dict.fromkeys(categories))]
    values = ("advit-synthetic", VERSION, seed, names, image_size, n_train, n_test_good, n_per_defect)
    plan = dict(zip(PLAN, values, strict=True))
    check_plan(plan)
    if is_complete(out, plan):
        return out
    check_replaceable(out)
    final = out.resolve()
    with exclusive(final.with_name(f".{final.name}.lock")):
        if not is_complete(out, plan):  # another process may just have written it
            try:
                write_plan(final, plan, progress)
            except OSError as error:
                why = error.strerror or error
                raise AdvitError(f"Cannot write {out}: {why}. Free some space or choose another folder.") from error
    return out


def write_plan(final: Path, plan: dict, progress: bool) -> None:
    """Write the data set of a plan beside ``final`` and put it in its place; nothing is left if that fails."""
    sweep(final.parent, final.name)
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for job in tqdm(list(jobs(plan)), disable=not progress, unit="image", desc=final.name):
            write_picture(part, plan, *job)
        words = {"seed": plan["seed"], "categories": ", ".join(plan["categories"]), "size": plan["image_size"]}
        (part / "README.txt").write_text(README.format(version=VERSION, **words), encoding="utf-8")
        (part / MANIFEST).write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        os.replace(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def embedded_root(name: str = "synthetic-seed0", progress: bool = False, **plan: Any) -> Path:
    """A data set of :func:`write_dataset`, made once under the user's cache folder ($XDG_CACHE_HOME or ~/.cache).

    Raises as :func:`write_dataset`, and says how to have another folder. Test: tests/test_synthetic.py
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        return write_dataset(cache / "advit" / name, progress=progress, **plan)
    except AdvitError as error:
        raise type(error)(f"{error} $XDG_CACHE_HOME says where the embedded data lie.") from error


def jobs(plan: dict) -> Iterator[tuple[str, str, int]]:
    """Category, stream and index of every image of a plan."""
    for name in plan["categories"]:
        counts = {"train": plan["n_train"], "good": plan["n_test_good"]}
        counts |= dict.fromkeys(defects_of(name), plan["n_per_defect"])
        yield from ((name, stream, index) for stream, count in counts.items() for index in range(count))


def files_of(category: str, stream: str, index: int) -> list[str]:
    """Where an image, and a defect's mask, lie below the data set's folder."""
    folder = "train/good" if stream == "train" else f"test/{stream}"
    files = [f"{category}/{folder}/{index:03d}.png"]
    return files + [f"{category}/ground_truth/{stream}/{index:03d}_mask.png"] * (stream in DEFECTS)


def write_picture(root: Path, plan: dict, category: str, stream: str, index: int) -> None:
    picture = photograph(category, stream, index, seed=plan["seed"], image_size=plan["image_size"])
    arrays = (picture.image, picture.mask.astype(np.uint8) * 255)
    for name, array in zip(files_of(category, stream, index), arrays, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / name, compress_level=1)


def check_category(name: str) -> str:
    """The name itself, if there is such a category."""
    if name not in THINGS:
        known = ", ".join(CATEGORIES)
        raise ConfigError(f"no synthetic category {name!r}; known: {known}.{nearest(name, CATEGORIES)}")
    return name


def check_plan(plan: dict) -> None:
    lowest = {"seed": 0, "image_size": 32, "n_train": 1, "n_test_good": 0, "n_per_defect": 0}
    for key, low in lowest.items():
        if plan[key] < low:
            raise ConfigError(f"{key} is {plan[key]}; it must be at least {low}.")
    if not plan["categories"]:
        raise ConfigError(f"no category given; known: {', '.join(CATEGORIES)}.")


def read_plan(out: Path) -> dict | None:
    """The manifest of a data set written by advit, or None."""
    try:
        plan = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(plan, dict) and tuple(plan) == PLAN and plan["format"] == "advit-synthetic"
    return plan if ours else None


def expected_files(plan: dict) -> set[str]:
    return {name for job in jobs(plan) for name in files_of(*job)} | {"README.txt", MANIFEST}


def is_complete(out: Path, plan: dict) -> bool:
    return read_plan(out) == plan and all((out / name).is_file() for name in expected_files(plan))


def check_replaceable(out: Path) -> None:
    """Refuse to overwrite anything but an empty folder or an older synthetic data set without foreign files."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder to write the synthetic data set to.")
    if not out.exists() or not any(out.iterdir()):
        return
    plan = read_plan(out)
    if plan is None:
        raise DataError(f"{out} is not empty and is no synthetic data set of advit; name a new or empty folder.")
    known = expected_files(plan)
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.relative_to(out).as_posix() not in known:
            raise DataError(f"{path} was not written by advit; move it away, or name another folder.")
