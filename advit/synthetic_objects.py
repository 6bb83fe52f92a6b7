"""Two defect-free objects of the embedded data set, drawn with NumPy: a connector and a gear.

Each thing is a frozen record of random choices (`sample`) and a pure `draw`, so that a defect is the same record
with one field replaced. Lengths are in units of 1/256 of the image side; shapes are signed distances (negative
inside), which give antialiased edges, bevels and soft shadows by arithmetic alone. No FFT and no matrix product,
whose rounding differs between processors: same seed, same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LIGHT = (-0.6, -0.8)  # towards the lamp: upper left


@dataclass(frozen=True)
class Canvas:
    """Pixel-centre coordinates ``x``, ``y`` (size, size) in 1/256 of the side; ``pixel`` is the length of one pixel."""

    size: int
    x: np.ndarray
    y: np.ndarray
    pixel: float

    @classmethod
    def of(cls, size: int) -> Canvas:
        pixel = 256.0 / size
        y, x = (np.mgrid[:size, :size] + 0.5) * pixel
        return cls(size, x, y, pixel)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each pixel inside the shape."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def relief(self, height: np.ndarray) -> np.ndarray:
        """Slope towards the lamp, in [-1, 1]."""
        down, right = np.gradient(height, self.pixel)
        return np.clip(-(LIGHT[0] * right + LIGHT[1] * down), -1, 1)


def smooth_noise(rng: np.random.Generator, canvas: Canvas, cells: int) -> np.ndarray:
    """Random field (size, size) of sd about 1 that varies over 256 / ``cells``: a cubic B-spline on random knots."""
    knots = rng.standard_normal((cells + 3, cells + 3)) * 1.9
    position = canvas.y[:, 0] * (cells / 256)
    first = position.astype(int)
    t = position - first
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    rows = sum(w[:, None] * knots[first + k] for k, w in enumerate(weights))
    return sum(w * rows[:, first + k] for k, w in enumerate(weights))


def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def paint(rgb: np.ndarray, colour, alpha: np.ndarray) -> None:
    """Blend a colour (3,) or an image (h, w, 3) into ``rgb``, in place; row and channel wise, which is faster."""
    rows = np.flatnonzero(alpha.any(1))
    if not rows.size:
        return
    part = slice(rows[0], rows[-1] + 1)
    colour = np.broadcast_to(colour, rgb.shape)
    for channel in range(3):
        layer = rgb[part, :, channel]
        layer += alpha[part] * (colour[part, :, channel] - layer)


def box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float, corner: float = 0.0) -> np.ndarray:
    """Signed distance to a rounded rectangle at the origin."""
    qx, qy = np.abs(x) - half_width + corner, np.abs(y) - half_height + corner
    outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
    return outside + np.minimum(np.maximum(qx, qy), 0) - corner


def polyline(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance to the line through ``points`` (n, 2)."""
    best = np.full(np.broadcast(x, y).shape, np.inf)
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        best = np.minimum(best, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
    return np.sqrt(best)


def window(canvas: Canvas, x: np.ndarray, y: np.ndarray, low, high):
    """The part of the canvas between the corners ``low`` and ``high``: its slices, and ``x`` and ``y`` there."""
    first = np.clip((np.asarray(low) / canvas.pixel).astype(int), 0, canvas.size - 2)
    last = np.clip((np.asarray(high) / canvas.pixel).astype(int) + 1, first + 2, canvas.size)
    part = (slice(first[1], last[1]), slice(first[0], last[0]))
    return part, x[part], y[part]


def stroke(canvas: Canvas, rgb: np.ndarray, points, width: float, colour, alpha: float, shift=(0.0, 0.0)) -> None:
    """Paint a line of ``width`` through ``points`` (n, 2), moved by ``shift``."""
    points = np.asarray(points, float) + shift
    part, x, y = window(canvas, canvas.x, canvas.y, points.min(0) - width - 2, points.max(0) + width + 2)
    paint(rgb[part], colour, alpha * canvas.cover(polyline(x, y, points) - width / 2))


def tint(rng: np.random.Generator, colour, spread: float, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Colours (*shape, 3) that differ in brightness by a relative sd ``spread`` and a little in hue."""
    value = 1 + spread * rng.standard_normal((*shape, 1)) + 0.3 * spread * rng.standard_normal((*shape, 3))
    return np.clip(np.asarray(colour) * value, 0, 1)


# --- connector: an aligned object ---

PIN_XY = np.array([(44 + 25 * i, 74 + 28 * j) for j in range(2) for i in range(6)], float)
CHIP_XY = np.array([(48 + 40 * i, 190) for i in range(4)], float)
TRACES = [
    [(pin, 118), (pin, 138), (pad, 138 + abs(pin - pad)), (pad, 184)]
    for pin, pad in ((44, 38), (69, 78), (94, 98), (119, 118), (144, 138), (169, 178))
] + [[(58, 190), (58, 220), (66, 228), (160, 228)], [(222, 36), (222, 150), (206, 166), (206, 190)]]
INK = [  # outline of the header, then "J1"
    [(22, 48), (190, 48), (190, 128), (22, 128), (22, 48)],
    [(204, 208), (204, 224), (200, 228), (195, 228), (191, 224)],
    [(214, 212), (219, 208), (219, 228)],
]


@dataclass(frozen=True)
class Connector:
    """A pin header and four chip capacitors on a circuit board; it stands still to within about two pixels."""

    shift: np.ndarray  # (2,)
    pin_there: np.ndarray  # (12,) bool
    pin_bend: np.ndarray  # (12, 2)
    pin_colour: np.ndarray  # (12, 3)
    chip_there: np.ndarray  # (4,) bool
    chip_shift: np.ndarray  # (4, 2)
    chip_turn: np.ndarray  # (4,) radians
    chip_colour: np.ndarray  # (4, 3)
    grain: np.ndarray  # (size, size)

    @classmethod
    def sample(cls, rng: np.random.Generator, canvas: Canvas) -> Connector:
        return cls(
            shift=rng.uniform(-2.0, 2.0, 2),
            pin_there=np.ones(12, bool),
            pin_bend=rng.normal(0, 0.8, (12, 2)),
            pin_colour=tint(rng, (0.88, 0.69, 0.33), 0.09, (12,)),
            chip_there=np.ones(4, bool),
            chip_shift=rng.normal(0, 1.2, (4, 2)),
            chip_turn=rng.normal(0, 0.06, 4),
            chip_colour=tint(rng, (0.64, 0.50, 0.37), 0.10, (4,)),
            grain=0.6 * smooth_noise(rng, canvas, 90) + smooth_noise(rng, canvas, 9),
        )

    def draw(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        x, y = canvas.x - self.shift[0], canvas.y - self.shift[1]
        board = np.array((0.10, 0.37, 0.25))
        rgb = board * (1 + 0.085 * self.grain)[..., None]
        for points in TRACES:
            stroke(canvas, rgb, points, 4.4, (0.17, 0.50, 0.33), 0.9, self.shift)
        hole = np.sqrt((x - 222) ** 2 + (y - 36) ** 2)
        paint(rgb, (0.80, 0.66, 0.36), canvas.cover(np.abs(hole - 14) - 4))
        paint(rgb, (0.03, 0.03, 0.03), canvas.cover(hole - 10))
        for points in INK:
            stroke(canvas, rgb, points, 1.9, (0.86, 0.88, 0.84), 0.9, self.shift)
        for k in range(4):
            self._chip(canvas, rgb, x, y, k)
        housing = box(x - 106.5, y - 88, 78, 33, 4)
        shadow = box(x - 111.5, y - 95, 78, 33, 8)
        paint(rgb, (0.02, 0.06, 0.05), 0.65 * (1 - ramp(shadow, -5, 7)))
        light = canvas.relief(2.2 * ramp(-housing, 0, 3.5))
        plastic = np.array((0.13, 0.135, 0.15)) * (1 + 0.06 * self.grain + 1.6 * light)[..., None]
        paint(rgb, plastic, canvas.cover(housing))
        for k in range(12):
            self._pin(canvas, rgb, x, y, k)
        return np.clip(rgb, 0, 1), np.ones_like(x)

    def _pin(self, canvas: Canvas, rgb: np.ndarray, x: np.ndarray, y: np.ndarray, k: int) -> None:
        at = PIN_XY[k] + self.shift
        part, x, y = window(canvas, x, y, at - 24, at + 24)
        x, y = x - PIN_XY[k, 0], y - PIN_XY[k, 1]
        socket = box(x, y, 9.5, 9.5, 1.5)
        paint(rgb[part], (0.05, 0.05, 0.06), canvas.cover(socket))
        edge = canvas.cover(np.abs(box(x, y, 10.2, 10.2, 2)) - 0.6) * ramp(x + y, -4, 12)
        paint(rgb[part], (0.30, 0.31, 0.33), 0.6 * edge)
        if not self.pin_there[k]:
            paint(rgb[part], (0.015, 0.015, 0.015), canvas.cover(box(x, y, 5, 5, 1)))
            return
        bx, by = self.pin_bend[k]
        along = polyline(x, y, np.array([(0, 0), (bx, by)]))
        paint(rgb[part], 0.45 * self.pin_colour[k], canvas.cover(along - 5.2))
        tip = np.maximum(np.abs(x - bx), np.abs(y - by))
        light = canvas.relief(1.3 * np.clip(6.2 - tip, 0, 3.2))
        face = self.pin_colour[k] * (0.86 + 0.45 * light)[..., None] + 0.18 * ramp(light, 0.5, 1)[..., None]
        paint(rgb[part], face, canvas.cover(tip - 6.2))

    def _chip(self, canvas: Canvas, rgb: np.ndarray, x: np.ndarray, y: np.ndarray, k: int) -> None:
        at = CHIP_XY[k] + self.shift
        part, x, y = window(canvas, x, y, at - 34, at + 34)
        x, y = x - CHIP_XY[k, 0], y - CHIP_XY[k, 1]
        for side in (-1, 1):
            pad = box(x - 10 * side, y, 6.5, 9.5, 1.5)
            paint(rgb[part], (0.66, 0.67, 0.66), canvas.cover(pad))
        if not self.chip_there[k]:
            return
        c, s = np.cos(self.chip_turn[k]), np.sin(self.chip_turn[k])
        x, y = x - self.chip_shift[k, 0], y - self.chip_shift[k, 1]
        x, y = c * x + s * y, c * y - s * x
        paint(rgb[part], (0.02, 0.05, 0.04), 0.5 * (1 - ramp(box(x - 2.5, y - 3, 13, 7.5, 2), -2, 4)))
        body = box(x, y, 13, 7.5, 1.5)
        light = canvas.relief(1.6 * ramp(-body, 0, 3))[..., None]
        ends = canvas.cover(8 - np.abs(x))[..., None]
        colour = self.chip_colour[k] * (1 - ends) + np.array((0.80, 0.81, 0.82)) * ends
        paint(rgb[part], colour * (0.92 + 0.55 * light), canvas.cover(body))


# --- gear: a freely rotated object ---

TEETH, ROOT, TIP = 16, 80.0, 100.0


@dataclass(frozen=True)
class Gear:
    """A turned brass gear with three screws and three slots, lying on a dark mat at any angle."""

    centre: np.ndarray  # (2,)
    turn: float  # of a full turn
    tooth_height: np.ndarray  # (16,) 1 = whole, 0 = gone, below 0 = torn out of the rim
    tooth_bend: np.ndarray  # (16,) tooth pitches at the tip
    screw_there: np.ndarray  # (3,) bool
    screw_shift: np.ndarray  # (3, 2)
    screw_turn: np.ndarray  # (3,) radians
    screw_colour: np.ndarray  # (3, 3)
    metal: np.ndarray  # (3,)
    rings: np.ndarray  # (256,) turning marks by radius
    grain: np.ndarray  # (size, size)

    @classmethod
    def sample(cls, rng: np.random.Generator, canvas: Canvas) -> Gear:
        return cls(
            centre=128 + rng.uniform(-2.5, 2.5, 2),
            turn=rng.uniform(),
            tooth_height=np.ones(TEETH),
            tooth_bend=np.zeros(TEETH),
            screw_there=np.ones(3, bool),
            screw_shift=np.zeros((3, 2)),
            screw_turn=rng.uniform(0, np.pi, 3),
            screw_colour=tint(rng, (0.66, 0.69, 0.73), 0.05, (3,)),
            metal=tint(rng, (0.84, 0.66, 0.33), 0.03),
            rings=rng.standard_normal(256),
            grain=0.5 * smooth_noise(rng, canvas, 110) + 0.7 * smooth_noise(rng, canvas, 7),
        )

    def outline(self, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
        pitch = (np.arctan2(y, x) / (2 * np.pi) - self.turn) % 1.0 * TEETH
        tooth = np.minimum(pitch.astype(int), TEETH - 1)
        rise = (r - ROOT) / (TIP - ROOT)
        off_axis = np.abs(pitch - tooth - 0.5 - self.tooth_bend[tooth] * np.clip(rise, 0, 1.2) ** 1.5)
        side = (off_axis - 0.27 + 0.12 * np.clip(rise, -0.2, 1.2)) * r * (2 * np.pi / TEETH) * 0.97
        tip = r - ROOT - self.tooth_height[tooth] * (TIP - ROOT)
        return np.minimum(np.maximum(r - ROOT, tip), np.maximum(side, tip))

    def on_web(self, degrees: float, radius: float = 52.0) -> np.ndarray:
        """Offset from the centre of the point at this angle and radius of the gear."""
        angle = 2 * np.pi * (self.turn + degrees / 360)
        return radius * np.array((np.cos(angle), np.sin(angle)))

    def draw(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        x, y = canvas.x - self.centre[0], canvas.y - self.centre[1]
        r = np.sqrt(x * x + y * y) + 1e-9
        rgb = np.array((0.21, 0.24, 0.28)) * (1 + 0.07 * self.grain)[..., None]
        sx, sy = x - 5, y - 6.5
        shadow = self.outline(sx, sy, np.sqrt(sx * sx + sy * sy) + 1e-9)
        paint(rgb, (0.03, 0.035, 0.045), 0.75 * (1 - ramp(shadow, -5, 7)))
        c, s = self.on_web(0, 1.0)
        key = box(c * x + s * y - 11, c * y - s * x, 8, 3.5, 1)
        solid = np.maximum(self.outline(x, y, r), -np.minimum(r - 15, key))
        for degrees in (60, 180, 300):
            arc = np.array([self.on_web(degrees + d) for d in (-24, -12, 0, 12, 24)])
            part, sx, sy = window(canvas, x, y, arc.min(0) + self.centre - 20, arc.max(0) + self.centre + 20)
            solid[part] = np.maximum(solid[part], 9.5 - polyline(sx, sy, arc))
        height = 2.2 * ramp(-solid, 0, 3) - 3.0 * (ramp(r, 30, 33) - ramp(r, 69, 72))
        light = canvas.relief(height)
        gloss = ((0.75 * x + 0.66 * y) / r) ** 2  # turned metal mirrors the lamp in two opposite sectors
        marks = np.interp(r * 1.4, np.arange(256), self.rings)
        value = 0.60 + 0.42 * gloss**2 + 0.022 * marks + 0.02 * self.grain + 0.42 * light
        metal = self.metal * value[..., None] + 0.12 * (gloss**4 + ramp(light, 0.45, 1))[..., None]
        paint(rgb, metal, canvas.cover(solid))
        for k in range(3):
            self._screw(canvas, rgb, x, y, k)
        return np.clip(rgb, 0, 1), canvas.cover(solid)

    def _screw(self, canvas: Canvas, rgb: np.ndarray, x: np.ndarray, y: np.ndarray, k: int) -> None:
        at = self.on_web(120 * k)
        part, x, y = window(canvas, x, y, at + self.centre - 30, at + self.centre + 30)
        x, y = x - at[0], y - at[1]
        thread = np.sqrt(x * x + y * y)
        paint(rgb[part], (0.06, 0.05, 0.03), canvas.cover(thread - 6.5))
        if not self.screw_there[k]:
            return
        x, y = x - self.screw_shift[k, 0], y - self.screw_shift[k, 1]
        head = np.sqrt(x * x + y * y) - 9.5
        paint(rgb[part], (0.08, 0.06, 0.02), 0.6 * (1 - ramp(np.sqrt((x - 2) ** 2 + (y - 2.5) ** 2), 6, 14)))
        c, s = np.cos(self.screw_turn[k]), np.sin(self.screw_turn[k])
        slot = box(c * x + s * y, c * y - s * x, 8, 1.5)
        light = canvas.relief(2.0 * ramp(-head, 0, 4) - 1.5 * canvas.cover(slot))
        paint(rgb[part], self.screw_colour[k] * (0.88 + 0.45 * light)[..., None], canvas.cover(head))
        paint(rgb[part], 0.3 * self.screw_colour[k], 0.85 * canvas.cover(slot))
