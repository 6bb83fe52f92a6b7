"""Two defect-free textures of the embedded data set, drawn with NumPy and Pillow: a woven cloth and a terrazzo slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import uniform_filter

from advit.synthetic_objects import Canvas, paint, ramp, smooth_noise, tint

THREADS = 48  # more than fit into an image
OVERSAMPLE = 3  # of the polygons, which Pillow draws without antialiasing


@dataclass(frozen=True)
class Weave:
    """A plain weave of blue warp (upright) and pale weft threads, at a random phase, pitch and small angle."""

    phase: np.ndarray  # (2,) threads
    pitch: float
    angle: float  # radians
    warp_colour: np.ndarray  # (48, 3)
    weft_colour: np.ndarray  # (48, 3)
    warp_width: np.ndarray  # (48,)
    weft_width: np.ndarray  # (48,)
    sway: np.ndarray  # (2, size, size) threads off their straight course
    fuzz: np.ndarray  # (size, size)
    gaps: tuple = ()  # (warp thread, first, last weft thread) without warp
    dyed: tuple = ()  # (warp thread, first, last weft thread, colour)
    pulls: tuple = ()  # (x, y, reach along, reach across, shift in threads)

    @classmethod
    def sample(cls, rng: np.random.Generator, canvas: Canvas) -> Weave:
        return cls(
            phase=rng.uniform(3, 5, 2),
            pitch=rng.uniform(7.9, 8.5),
            angle=rng.normal(0, 0.02),
            warp_colour=tint(rng, (0.36, 0.49, 0.68), 0.035, (THREADS,)),
            weft_colour=tint(rng, (0.70, 0.71, 0.69), 0.03, (THREADS,)),
            warp_width=rng.normal(0.45, 0.012, THREADS),
            weft_width=rng.normal(0.45, 0.012, THREADS),
            sway=np.stack([0.05 * smooth_noise(rng, canvas, 6) for _ in range(2)]),
            fuzz=0.8 * smooth_noise(rng, canvas, 120) + 0.3 * smooth_noise(rng, canvas, 5),
        )

    def threads(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        """Position of each pixel across the warp and across the weft, in threads."""
        x, y = canvas.x - 128, canvas.y - 128
        c, s = np.cos(self.angle), np.sin(self.angle)
        u = (c * x + s * y + 128) / self.pitch + self.phase[0] + self.sway[0]
        v = (c * y - s * x + 128) / self.pitch + self.phase[1] + self.sway[1]
        for px, py, along, across, shift in self.pulls:
            near = 1 - ramp(np.abs(canvas.y - py), 0, along)
            u = u - shift * near * (1 - ramp(np.abs(canvas.x - px), 0, across))
        return u, v

    def draw(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        u, v = self.threads(canvas)
        i, j = np.clip(u.astype(int), 0, THREADS - 1), np.clip(v.astype(int), 0, THREADS - 1)
        fu, fv = u - i - 0.5, v - j - 0.5
        over = np.where((i + j) % 2 == 0, 1.0, -1.0)  # +1 where the warp lies on top
        warp_round = np.sqrt(np.clip(1 - (fu / self.warp_width[i]) ** 2, 0, 1))
        slack = np.zeros_like(u, bool)
        for thread, first, last in self.gaps:
            slack |= (i == thread) & (v >= first) & (v <= last)
        warp_round = np.where(slack, 0, warp_round)
        weft_width = self.weft_width[j] * np.where(slack, 0.72, 1)  # a weft without support lies thin and low
        weft_round = np.sqrt(np.clip(1 - (fv / weft_width) ** 2, 0, 1))
        warp_z = 0.8 * warp_round + 0.42 * over * (1 - 4 * fv * fv) - 9 * (warp_round <= 0)
        weft_z = 0.8 * weft_round - 0.42 * over * (1 - 4 * fu * fu) - 9 * (weft_round <= 0)
        warp, weft = self.warp_colour[i], self.weft_colour[j]
        for thread, first, last, colour in self.dyed:
            warp = np.where(((i == thread) & (v >= first) & (v <= last))[..., None], colour, warp)
        top = ramp(warp_z - weft_z, -0.12, 0.12)[..., None]
        height = np.maximum(np.maximum(warp_z, weft_z), -0.6)
        twist = np.where(warp_z > weft_z, (fu * 1.6 + v * 2.5) % 1.0, (fv * 1.6 + u * 2.5) % 1.0)
        light = canvas.relief(2.0 * height)
        shade = 0.60 + 0.34 * np.clip(height - 0.6 * slack, -0.6, 1.2) + 0.12 * light
        shade += 0.10 * np.abs(twist - 0.5) + 0.035 * self.fuzz
        rgb = (warp * top + weft * (1 - top)) * shade[..., None]
        paint(rgb, (0.20, 0.21, 0.24), np.maximum(1 - ramp(height, -0.9, -0.2), (height <= -0.6) * 0.9))
        return np.clip(rgb, 0, 1), np.ones_like(u)


# --- terrazzo: an irregular texture ---

CHIP_COLOURS = np.array(
    ((0.65, 0.63, 0.60), (0.59, 0.58, 0.57), (0.75, 0.62, 0.53), (0.86, 0.84, 0.80), (0.67, 0.53, 0.46))
)
CHIP_SHARES = np.array((0.26, 0.15, 0.22, 0.28, 0.09))


@dataclass(frozen=True)
class Terrazzo:
    """Polished stone chips of five kinds in pale cement; no two slabs share a chip."""

    centre: np.ndarray  # (n, 2)
    radius: np.ndarray  # (n,)
    corners: np.ndarray  # (n, 8, 2) relative to the centre, in radii
    colour: np.ndarray  # (n, 3)
    veins: np.ndarray  # (size, size)
    cement: np.ndarray  # (size, size)
    holes: tuple = ()  # indices of chips fallen out

    @classmethod
    def sample(cls, rng: np.random.Generator, canvas: Canvas) -> Terrazzo:
        radius = np.sort(np.clip(3.2 * rng.uniform(size=1100) ** -0.42, 3.2, 14))[::-1]
        centre, n = rng.uniform(-12, 268, (1100, 2)), 0
        for size, (cx, cy) in zip(radius.copy(), centre.copy(), strict=True):  # large first; keep what finds room
            gap = (centre[:n, 0] - cx) ** 2 + (centre[:n, 1] - cy) ** 2
            if (gap > (0.92 * (radius[:n] + size) + 0.6) ** 2).all():
                radius[n], centre[n], n = size, (cx, cy), n + 1
        angle = 2 * np.pi * (np.arange(8) + rng.uniform(-0.38, 0.38, (n, 8))) / 8 + rng.uniform(0, 6.28, (n, 1))
        reach = rng.uniform(0.70, 1.08, (n, 8))
        stretch = rng.uniform(0.75, 1.0, (n, 1))
        corners = np.stack([reach * np.cos(angle), reach * np.sin(angle) * stretch], -1)
        kind = np.searchsorted(np.cumsum(CHIP_SHARES)[:-1], rng.uniform(size=n))
        return cls(
            centre=centre[:n],
            radius=radius[:n],
            corners=corners,
            colour=tint(rng, CHIP_COLOURS[kind], 0.05, (n,)),
            veins=0.6 * smooth_noise(rng, canvas, 48) + 0.7 * smooth_noise(rng, canvas, 100),
            cement=0.7 * smooth_noise(rng, canvas, 110) + 0.4 * smooth_noise(rng, canvas, 12),
        )

    def polygons(self) -> np.ndarray:
        """Corners (n, 8, 2) of the chips."""
        return self.centre[:, None] + self.radius[:, None, None] * self.corners

    def draw(self, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
        side = canvas.size * OVERSAMPLE
        chips, pits = Image.new("RGBA", (side, side)), Image.new("L", (side, side))
        pen, pit_pen = ImageDraw.Draw(chips), ImageDraw.Draw(pits)
        corners = np.rint(self.polygons() * (side / 256)).reshape(-1, 16).tolist()
        fills = np.rint(self.colour * 255).astype(int).tolist()
        for k, (outline, fill) in enumerate(zip(corners, fills, strict=True)):
            if k in self.holes:
                pit_pen.polygon(outline, fill=255)
            else:
                pen.polygon(outline, fill=(*fill, 255))
        layer = np.asarray(chips.reduce(OVERSAMPLE), float) / 255
        rgb = np.array((0.73, 0.70, 0.65)) * (1 + 0.035 * self.cement)[..., None]
        alpha = layer[..., 3]
        paint(rgb, layer[..., :3] * (1 + 0.05 * self.veins)[..., None], alpha)
        if self.holes:
            pit = np.asarray(pits.reduce(OVERSAMPLE), float) / 255
            light = canvas.relief(-3.0 * uniform_filter(uniform_filter(pit, 5), 3))  # walls with a slope
            floor = np.array((0.50, 0.47, 0.42)) * (0.80 + 0.07 * self.cement + 0.75 * light)[..., None]
            paint(rgb, floor, ramp(pit, 0.1, 0.6))
        return np.clip(rgb, 0, 1), np.ones_like(alpha)
