"""Six kinds of defect for the embedded data set, each with the exact mask of the pixels it changed.

A defect either alters the record of a thing before it is drawn (a missing, wrongly coloured, bent or misplaced
part) or is drawn on its finished surface (scratch, stain, crack). The mask is read off the difference to the
defect-free drawing of the same thing, before light and sensor noise, so that outside it not one pixel differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from advit.synthetic_objects import (
    CHIP_XY,
    PIN_XY,
    Canvas,
    Connector,
    Gear,
    paint,
    polyline,
    ramp,
    tint,
    window,
)
from advit.synthetic_textures import THREADS, Terrazzo, Weave

Thing = Connector | Gear | Weave | Terrazzo

DEFECTS = ("scratch", "stain", "crack", "missing_part", "wrong_colour", "bent_part")
VISIBLE = 6 / 255  # a change of colour below this is no change
AREA = (0.001, 0.06)  # share of the image that a defect covers; a draw outside is drawn again


def add_defect(
    kind: str, thing: Thing, canvas: Canvas, clean: np.ndarray, body: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the drawing (h, w, 3) of ``thing`` with a defect of ``kind``, and its mask (h, w) bool.

    ``clean`` (h, w, 3) in [0, 1] and ``body`` (h, w), the cover of the thing's surface, come from ``thing.draw``.
    The result equals ``clean`` wherever the mask is False. Test: tests/test_synthetic.py
    """
    for _ in range(30):
        if (type(thing), kind) in PARTS:
            drawn, _ = PARTS[type(thing), kind](thing, rng).draw(canvas)
        else:
            drawn = clean.copy()
            SURFACE[kind](canvas, drawn, body, rng)
        mask = changed(clean, drawn)
        if AREA[0] <= mask.mean() <= AREA[1]:
            return np.where(mask[..., None], drawn, clean), mask
    raise AssertionError(f"thirty draws of {kind} on {type(thing).__name__} were all too small or too large")


def changed(clean: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pixels (h, w) whose colour visibly differs; gaps up to two pixels wide are closed, specks up to three dropped."""
    mask = np.abs(drawn - clean).max(-1) > VISIBLE
    mask = ndimage.binary_closing(np.pad(mask, 3), np.ones((3, 3), bool))[3:-3, 3:-3] | mask
    regions, _ = ndimage.label(mask, np.ones((3, 3)))
    return mask & (np.bincount(regions.ravel()) > 3)[regions]


# --- on the surface ---


def scratch(canvas: Canvas, rgb: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> None:
    """One to three nearly parallel grooves, bright with a dark flank, that fade in and out."""
    start, angle = place(canvas, body, rng), rng.uniform(0, 2 * np.pi)
    length, bow = log_uniform(rng, 30, 170), rng.normal(0, 0.25)
    for k in range(1 + int(length > 60) * rng.integers(0, 3)):
        along = np.linspace(-0.5, 0.5, 9) * length * rng.uniform(0.7, 1)
        across = bow * (along / length) ** 2 * length + k * rng.uniform(3, 5)
        line = start + along[:, None] * direction(angle) + across[:, None] * direction(angle + np.pi / 2)
        width = rng.uniform(1.5, 2.4)
        part, x, y = window(canvas, canvas.x, canvas.y, line.min(0) - 5, line.max(0) + 5)
        along = (x - start[0]) * np.cos(angle) + (y - start[1]) * np.sin(angle)
        fade = 0.75 + 0.25 * np.interp(along, np.linspace(-0.5, 0.5, 12) * length, rng.uniform(-1, 1, 12))
        seen = fade * body[part]
        paint(rgb[part], 0.35 * rgb[part], 0.8 * seen * canvas.cover(polyline(x - 0.9, y - 0.9, line) - width / 2))
        paint(rgb[part], (0.98, 0.98, 0.96), 0.85 * seen * canvas.cover(polyline(x, y, line) - width / 2))


def crack(canvas: Canvas, rgb: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> None:
    """A dark, forking, tapering line with a bright lower edge."""
    length, angle = log_uniform(rng, 36, 135), rng.uniform(0, 2 * np.pi)
    start = place(canvas, body, rng)
    lines = [walk(start, angle, length, log_uniform(rng, 2.1, 3.8), rng)]
    for _ in range(rng.integers(0, 1 + int(length / 35))):
        fork = lines[0][0][rng.integers(1, max(2, len(lines[0][0]) - 2))]
        lines.append(walk(fork, angle + rng.choice((-1, 1)) * rng.uniform(0.5, 1.1), 0.45 * length, 1.4, rng))
    gap = np.full(rgb.shape[:2], np.inf)
    for points, width in lines:
        for k in range(len(points) - 1):
            low, high = np.minimum(points[k], points[k + 1]) - 8, np.maximum(points[k], points[k + 1]) + 8
            part, x, y = window(canvas, canvas.x, canvas.y, low, high)
            taper = width / 2 * (1 - 0.65 * k / len(points))
            gap[part] = np.minimum(gap[part], polyline(x, y, points[k : k + 2]) - taper)
    rim = canvas.cover(np.where(np.isfinite(gap), np.abs(gap - 1.0) - 0.6, 9)) * body
    paint(rgb, 0.45 + 0.6 * rgb, 0.55 * rim)
    paint(rgb, (0.05, 0.045, 0.04), 0.92 * canvas.cover(gap) * body)


def stain(canvas: Canvas, rgb: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> None:
    """A blot with a wavy, darker rim: oil on a bright surface, dried residue on a dark one."""
    centre, radius = place(canvas, body, rng), 256 * np.sqrt(log_uniform(rng, 0.0025, 0.05) / np.pi)
    x, y = canvas.x - centre[0], canvas.y - centre[1]
    r, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    wave = sum(rng.normal(0, 0.16 / k) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 4, 5, 7))
    edge = r * (1 + wave) - radius
    film = (1 - ramp(edge, -2.5, 1.5)) * body
    ring = film * ramp(edge, -0.35 * radius - 3, 0)
    dark = rgb[film > 0.5].mean() < 0.33 if (film > 0.5).any() else False
    strength = rng.uniform(0.7, 1.0)
    if dark:
        paint(rgb, (0.62, 0.60, 0.52), strength * (0.30 * film + 0.25 * ring))
    else:
        oil = np.array(((0.55, 0.44, 0.28), (0.42, 0.44, 0.46), (0.62, 0.40, 0.30))[rng.integers(3)])
        paint(rgb, rgb * oil, strength * (0.60 * film + 0.35 * ring))


def heat_tint(canvas: Canvas, rgb: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> None:
    """A soft patch of temper colour on metal: straw, then purple, then blue towards its middle."""
    centre, radius = place(canvas, body, rng), 256 * np.sqrt(log_uniform(rng, 0.006, 0.06) / np.pi)
    x, y = canvas.x - centre[0], canvas.y - centre[1]
    heat = 1 - np.sqrt(x * x + y * y) / radius
    grey = rgb.mean(-1, keepdims=True)
    paint(rgb, grey * np.array((1.25, 0.75, 0.80)), 0.8 * ramp(heat, 0, 0.25) * body)
    paint(rgb, grey * np.array((0.60, 0.85, 1.55)), 0.9 * ramp(heat, 0.2, 0.55) * body)


def place(canvas: Canvas, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random point (x, y) of the surface, away from the image border."""
    inner = (body > 0.9) & (np.abs(canvas.x - 128) < 108) & (np.abs(canvas.y - 128) < 108)
    row, column = np.unravel_index(rng.choice(np.flatnonzero(inner)), inner.shape)
    return (np.array((column, row)) + 0.5) * canvas.pixel


def walk(start: np.ndarray, angle: float, length: float, width: float, rng) -> tuple[np.ndarray, float]:
    """A jagged path (n, 2) of steps of about five units, and the width it starts with."""
    turns = angle + np.cumsum(rng.normal(0, 0.25, max(3, int(length / 5)))) + rng.normal(0, 0.4)
    turns = turns + rng.uniform(-0.6, 0.6, len(turns))
    steps = np.stack([np.cos(turns), np.sin(turns)], -1) * (length / len(turns))
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)]), width


def direction(angle: float) -> np.ndarray:
    return np.array((np.cos(angle), np.sin(angle)))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform in the logarithm, so that small defects are as frequent as large ones."""
    return float(low * (high / low) ** rng.uniform())


# --- in the parts ---


def change(values: np.ndarray, chosen, new) -> np.ndarray:
    """A copy of ``values`` with the chosen entries replaced."""
    values = values.copy()
    values[chosen] = new
    return values


def some_of(rng: np.random.Generator, places: np.ndarray, most: int) -> np.ndarray:
    """Indices of one to ``most`` neighbours among ``places`` (n, 2)."""
    away = ((places - places[rng.integers(len(places))]) ** 2).sum(-1)
    return np.argsort(away, kind="stable")[: rng.integers(1, most + 1)]


def connector_missing(thing: Connector, rng: np.random.Generator) -> Connector:
    if rng.uniform() < 0.5:
        return replace(thing, pin_there=change(thing.pin_there, some_of(rng, PIN_XY, 4), False))
    return replace(thing, chip_there=change(thing.chip_there, some_of(rng, CHIP_XY, 3), False))


def connector_colour(thing: Connector, rng: np.random.Generator) -> Connector:
    if rng.uniform() < 0.6:
        colour = tint(rng, ((0.74, 0.76, 0.79), (0.66, 0.36, 0.22), (0.38, 0.36, 0.30))[rng.integers(3)], 0.03)
        return replace(thing, pin_colour=change(thing.pin_colour, some_of(rng, PIN_XY, 5), colour))
    colour = tint(rng, ((0.25, 0.27, 0.32), (0.30, 0.45, 0.62))[rng.integers(2)], 0.03)
    return replace(thing, chip_colour=change(thing.chip_colour, some_of(rng, CHIP_XY, 2), colour))


def connector_bent(thing: Connector, rng: np.random.Generator) -> Connector:
    if rng.uniform() < 0.6:
        bends = log_uniform(rng, 4, 8) * direction(rng.uniform(0, 2 * np.pi))
        return replace(thing, pin_bend=change(thing.pin_bend, some_of(rng, PIN_XY, 2), bends))
    chip = rng.integers(4)
    shift = log_uniform(rng, 4, 9) * direction(rng.uniform(0, 2 * np.pi))
    turn = rng.choice((-1, 1)) * rng.uniform(0.2, 0.7)
    return replace(thing, chip_shift=change(thing.chip_shift, chip, shift),
                   chip_turn=change(thing.chip_turn, chip, turn))


def gear_missing(thing: Gear, rng: np.random.Generator) -> Gear:
    if rng.uniform() < 0.25:
        return replace(thing, screw_there=change(thing.screw_there, rng.integers(3), False))
    teeth = (rng.integers(16) + np.arange(rng.integers(1, 5))) % 16
    return replace(thing, tooth_height=change(thing.tooth_height, teeth, rng.uniform(-0.45, 0.45, len(teeth))))


def gear_bent(thing: Gear, rng: np.random.Generator) -> Gear:
    if rng.uniform() < 0.3:
        shift = log_uniform(rng, 5, 9) * direction(rng.uniform(0, 2 * np.pi))
        return replace(thing, screw_shift=change(thing.screw_shift, rng.integers(3), shift))
    teeth = (rng.integers(16) + np.arange(rng.integers(1, 4))) % 16
    bend = rng.choice((-1, 1)) * rng.uniform(0.25, 0.34)
    return replace(thing, tooth_bend=change(thing.tooth_bend, teeth, bend))


def weave_runs(thing: Weave, rng: np.random.Generator, most: int, longest: float) -> list[tuple[int, int, int]]:
    """One to ``most`` neighbouring warp threads, each with the weft threads between which something is wrong."""
    inside = 256 / thing.pitch
    first = int(thing.phase[0] + rng.uniform(0.12, 0.82) * inside)
    middle = thing.phase[1] + rng.uniform(0.15, 0.85) * inside
    half = log_uniform(rng, 2.5, longest) / 2
    return [(first + k, int(middle - half + rng.integers(-1, 2)), int(middle + half + rng.integers(0, 2)))
            for k in range(rng.integers(1, most + 1)) if first + k < THREADS]


def weave_missing(thing: Weave, rng: np.random.Generator) -> Weave:
    return replace(thing, gaps=tuple(weave_runs(thing, rng, 3, 16)))


def weave_colour(thing: Weave, rng: np.random.Generator) -> Weave:
    colour = tint(rng, ((0.72, 0.24, 0.20), (0.20, 0.20, 0.22), (0.80, 0.62, 0.25))[rng.integers(3)], 0.03)
    return replace(thing, dyed=tuple((*run, colour) for run in weave_runs(thing, rng, 3, 22)))


def weave_bent(thing: Weave, rng: np.random.Generator) -> Weave:
    reach = log_uniform(rng, 10, 34)
    x, y = rng.uniform(30, 226, 2)
    shift = rng.choice((-1, 1)) * rng.uniform(1.0, 1.6)
    return replace(thing, pulls=((x, y, reach * rng.uniform(1, 1.5), 14 + 0.4 * reach, shift),))


def chips_around(thing: Terrazzo, rng: np.random.Generator, most: int) -> np.ndarray:
    """One to ``most`` neighbouring chips, each wide enough to notice."""
    seen = np.flatnonzero((thing.radius > 5.5) & (np.abs(thing.centre - 128) < 112).all(-1))
    return seen[some_of(rng, thing.centre[seen], most)]


def terrazzo_missing(thing: Terrazzo, rng: np.random.Generator) -> Terrazzo:
    return replace(thing, holes=tuple(chips_around(thing, rng, 4).tolist()))


def terrazzo_colour(thing: Terrazzo, rng: np.random.Generator) -> Terrazzo:
    colour = tint(rng, ((0.22, 0.40, 0.66), (0.24, 0.52, 0.38), (0.82, 0.62, 0.18))[rng.integers(3)], 0.05)
    return replace(thing, colour=change(thing.colour, chips_around(thing, rng, 6), colour))


SURFACE: dict[str, Callable] = {"scratch": scratch, "stain": stain, "crack": crack, "wrong_colour": heat_tint}
PARTS: dict[tuple[type, str], Callable] = {
    (Connector, "missing_part"): connector_missing,
    (Connector, "wrong_colour"): connector_colour,
    (Connector, "bent_part"): connector_bent,
    (Gear, "missing_part"): gear_missing,
    (Gear, "bent_part"): gear_bent,
    (Weave, "missing_part"): weave_missing,
    (Weave, "wrong_colour"): weave_colour,
    (Weave, "bent_part"): weave_bent,
    (Terrazzo, "missing_part"): terrazzo_missing,
    (Terrazzo, "wrong_colour"): terrazzo_colour,
}
