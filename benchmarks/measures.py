"""Everything that is measured, as rows: what, ours, the opponent's, ratio, target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from advit.allocator import keep_freed_memory
from advit.config import ADViTConfig
from advit.filters import FilterBank
from benchmarks import attention, training
from benchmarks.literal_vt_adl import LiteralVTADL, literal_scores
from benchmarks.machine import matmul_gflops
from benchmarks.metrics import NUMPY_AVX2, loop_aupro, maps_and_masks, seconds_of
from benchmarks.notebooks import wall_times
from benchmarks.timing import memory_of, side_by_side
from benchmarks.whole_rows import WholeRows, texture_features

MB = 2**20
BATCH_OF_IMAGES = 8 * 3 * 512**2 * 4  # bytes; up to twice as much, freed later, stays with the process by glibc's rules
PRODUCTS = 7  # matrix products of N x N x width in a layer: two forward, five backward


@dataclass(frozen=True)
class Sizes:
    """How large the measurements are. ``width``: of a head, d / M of the public setting."""

    patches: tuple[int, ...] = (64, 256, 1024)
    batch: int = 8
    width: int = 64
    narrow: int = 24  # of a head in preset quick
    fine: int = 4096
    fine_options: tuple[tuple[str, Any], ...] = (("patch", 8), ("batch_size", 1), ("bottleneck", 32))
    vt_adl_options: tuple[tuple[str, Any], ...] = ()
    preset_options: tuple[tuple[str, Any], ...] = ()
    presets: tuple[str, ...] = ("paper", "vt_adl", "quick")
    steps: int = 20
    maps: tuple[int, int] = (100, 512)
    loop_thresholds: int = 200
    product: int = 2048
    repeats: int = 5
    fused: bool = True
    filters: tuple[int, int, int] = (256, 32, 4)  # side of the image, places along it, wavelengths
    notebooks: tuple[str, ...] = ("01", "02", "03", "04", "05", "06", "07")
    growth_patches: tuple[int, ...] = (64, 256, 1024, 4096)
    growth_published: int = 1024
    growth_images: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    growth_categories: tuple[int, ...] = (1, 2, 4)
    growth_image_size: int = 256


FAST = Sizes(
    patches=(16, 64), batch=2, width=8, narrow=4, fine=256,
    fine_options=(("image_size", 32), ("patch", 4), ("dim", 16), ("depth", 1), ("heads", 2), ("mlp_dim", 16),
                  ("bottleneck", 8), ("components", 2), ("batch_size", 1)),
    vt_adl_options=(("image_size", 512), ("patch", 128), ("dim", 16), ("depth", 1), ("heads", 2), ("mlp_dim", 16),
                    ("components", 2), ("batch_size", 1)),
    preset_options=(("image_size", 32), ("patch", 8), ("dim", 16), ("depth", 1), ("heads", 2), ("mlp_dim", 16),
                    ("bottleneck", 8), ("components", 2), ("batch_size", 2)),
    presets=("quick",), fused=False, steps=2, maps=(4, 64), loop_thresholds=5, product=64, repeats=1,
    filters=(32, 8, 3), notebooks=(),
    growth_patches=(16, 64), growth_published=64, growth_images=(1, 2), growth_categories=(1, 2), growth_image_size=64,
)  # fmt: skip


def row(
    measure: str, unit: str, ours: float, opponent: float | None = None, against: str = "", target: str = "",
    met: bool | None = None, higher: bool = False,
) -> dict[str, Any]:
    """One line of the table. ``ratio``: how many times better than the opponent."""
    ratio = None if not opponent or not ours else (ours / opponent if higher else opponent / ours)
    return {"measure": measure, "unit": unit, "ours": ours, "against": against, "opponent": opponent, "ratio": ratio,
            "target": target, "met": met}  # fmt: skip


def at_least(found: dict[str, Any], times: float) -> dict[str, Any]:
    """The row with a target on its ratio."""
    return found | {"target": f"{times:g}x", "met": None if found["ratio"] is None else bool(found["ratio"] >= times)}


def at_most(found: dict[str, Any], limit: float) -> dict[str, Any]:
    """The row with a limit on its value."""
    return found | {"target": f"at most {limit:g}", "met": bool(found["ours"] <= limit)}


def inputs_of(sizes: Sizes) -> Iterator[tuple[int, int, attention.Inputs]]:
    """N, width of a head, and inputs of that size, one after the other."""
    for width in (sizes.width, sizes.narrow):
        for n in sizes.patches:
            yield n, width, attention.inputs(n, sizes.batch, width)


def kernels_of(sizes: Sizes) -> dict[str, str]:
    """Kernels that are measured, by what a row adds to its name."""
    return {"": "plain", ", fused": "fused"} if sizes.fused else {"": "plain"}


def ours_of(sizes: Sizes, x: attention.Inputs, function: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
    """Our function with each of the kernels, which are made here."""
    if sizes.fused:
        function(x, "fused")
    return {how: lambda kernels=kernels: function(x, kernels) for how, kernels in kernels_of(sizes).items()}


def against_published(
    sizes: Sizes, x: attention.Inputs, ours: Callable[..., Any], theirs: Callable[..., Any], what: str, where: str
) -> Iterator[dict[str, Any]]:
    """The discrepancy's times, with each of the kernels, beside those of the published formulation."""
    both = ours_of(sizes, x, ours)
    found = side_by_side(both | {"theirs": lambda: theirs(x)}, sizes.repeats)
    for how in both:
        yield row(f"discrepancy, {what}{how}, {where}", "ms", 1e3 * found[how], 1e3 * found["theirs"], "published")


def discrepancy_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Forward, and forward + backward, against the published formulation."""
    targets = {64: 6, 256: 10, 1024: 25}
    for n, width, x in inputs_of(sizes):
        where, value, both = f"N = {n}, heads of {width}", attention.our_value, attention.our_discrepancy
        yield from against_published(sizes, x, value, attention.published_value, "forward", where)
        for line in against_published(sizes, x, both, attention.published_both, "forward + backward", where):
            yield at_least(line, targets[n]) if n in targets else line
    yield from memory_rows(sizes)


def kept_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """The discrepancy's times once more, where freed memory stays with the process: the published one gains more."""
    for n, width, x in inputs_of(sizes):
        where, both = f"freed memory kept, N = {n}, heads of {width}", attention.our_discrepancy
        yield from against_published(sizes, x, both, attention.published_both, "forward + backward", where)


def memory_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Extra memory of the discrepancy, and how long the finest patches take."""
    kernels = kernels_of(sizes)
    n = sizes.patches[-1]
    where = dict(n=n, batch=sizes.batch, width=sizes.width)
    theirs = memory_of("published_both", **where)["extra"] / MB
    for how, name in kernels.items():
        ours = memory_of("our_discrepancy", **where, kernels=name)["extra"] / MB
        yield at_least(row(f"discrepancy, extra memory{how}, N = {n}", "MB", ours, theirs, "published"), 20)
    where = dict(n=sizes.fine, batch=1, width=sizes.width)
    try:
        theirs = memory_of("published_both", **where)  # 11 GB
    except RuntimeError:  # which this machine has not
        theirs = {"extra": None, "seconds": None}
    parts = (("extra memory", "extra", "MB", 1 / MB), ("forward + backward", "seconds", "ms", 1e3))
    for how, chosen in kernels.items():
        found = memory_of("our_discrepancy", **where, kernels=chosen)
        for what, key, unit, factor in parts:
            other = None if theirs[key] is None else theirs[key] * factor
            against = "out of memory" if other is None else "published"
            name = f"discrepancy, {what}{how}, N = {sizes.fine}, batch 1"
            line = row(name, unit, found[key] * factor, other, against)
            yield at_most(line, 128) if key == "extra" else line


def layer_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """The whole attention layer against the published one, and against plain attention."""
    peak = matmul_gflops(sizes.product, sizes.repeats)
    yield row("matrix product, peak", "GFLOP/s", peak, higher=True)
    for n, width, x in inputs_of(sizes):
        both = ours_of(sizes, x, attention.our_attention)
        found = side_by_side(both | {"plain": lambda x=x: attention.plain_attention(x)}, sizes.repeats)
        plain, theirs, where = found["plain"], None, f"N = {n}, heads of {width}"
        if width == sizes.width:
            theirs = side_by_side({"it": lambda x=x: attention.published_attention(x)}, 1)["it"]
        for how in both:
            ours = found[how]
            what = f"attention with discrepancy, forward + backward{how}, {where}"
            line = row(what, "ms", 1e3 * ours, 1e3 * plain, "plain attention")
            yield line | {"target": "at most 2x the time", "met": ours <= 2 * plain} if n >= 256 else line
            achieved = attention.flop(n, sizes.batch, width, PRODUCTS) / ours / 1e9
            rate = f"attention with discrepancy, matrix products{how}, {where}"
            yield row(rate, "GFLOP/s", achieved, peak, "peak", higher=True)
            if theirs is not None:
                line = row(what, "ms", 1e3 * ours, 1e3 * theirs, "published")
                yield at_least(line, 8) if n == 1024 else line


def vt_adl_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Training and scoring of the public computation, ours against literal."""
    config = training.sized("vt_adl", **dict(sizes.vt_adl_options))
    network, images = training.network_of(config), training.smooth_images(config, config.batch_size)
    literal = training.literal_steps(network, images)
    ours = training.our_steps(network, images)
    losses: dict[str, list[list[float]]] = {"ours": [], "theirs": []}
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(sizes.steps):
        for name, step in (("ours", ours), ("theirs", literal)):
            found = side_by_side({"it": lambda step=step, name=name: losses[name].append(step())}, 0)
            seconds[name].append(found["it"])
    a, b = (1e3 * float(np.median(seconds[name])) for name in ("ours", "theirs"))
    where = f"vt_adl, {config.image_size} px, batch {config.batch_size}"
    yield at_least(row(f"training step, {where}", "ms", a, b, "literal"), 3)
    gap = float(np.max(np.abs(np.array(losses["ours"]) / np.array(losses["theirs"]) - 1)))
    what = f"largest relative gap of the losses of reconstruction and density, {sizes.steps} steps, {where}"
    yield at_most(row(what, "", gap), 1e-4)
    yield from rounding_rows(sizes, replace(config, batch_size=1, noise_sd=0.0))
    half = training.our_steps(training.network_of(replace(config, precision="bfloat16")), images)
    c = 1e3 * side_by_side({"it": half}, min(3, sizes.repeats))["it"]
    yield row(f"training step with precision=bfloat16 (losses differ), {where}", "ms", c, b, "literal")
    memory = [memory_of("steps", literal=x, steps=2, **dict(sizes.vt_adl_options)) for x in (False, True)]
    yield at_least(
        row(f"training step, peak memory, {where}", "MB", memory[0]["peak"] / MB, memory[1]["peak"] / MB, "literal"), 2
    )
    theirs = LiteralVTADL(network).eval()
    functions = {
        "both": training.our_scores(network, images, ("density", "reconstruction")),
        "map": training.our_scores(network, images),
        "theirs": lambda: literal_scores(theirs, images),
    }
    rate = {k: len(images) / v for k, v in side_by_side(functions, min(3, sizes.repeats)).items()}
    for what, name in (("density and reconstruction", "both"), ("what its map needs", "map")):
        line = row(f"scoring, {what}, {where}", "images/s", rate[name], rate["theirs"], "literal", higher=True)
        yield at_least(line, 4)


def rounding_rows(sizes: Sizes, config: ADViTConfig) -> Iterator[dict[str, Any]]:
    """Whether both computations are the same one: in float64, where rounding does not build up over the steps."""

    def losses(literal: bool, precision: str) -> np.ndarray:
        steps = training.steps_of(literal, sizes.steps, **asdict(replace(config, precision=precision)))
        return np.array(steps())

    exact = losses(True, "float64")
    where = f"{sizes.steps} steps without noise, vt_adl, {config.image_size} px, batch {config.batch_size}"
    for who, literal, precision in (
        ("of the losses in float64", False, "float64"),
        ("of ours in float32 to the literal in float64", False, "float32"),
        ("of the literal in float32 to itself in float64", True, "float32"),
    ):
        gap = float(np.max(np.abs(losses(literal, precision) / exact - 1)))
        found = row(f"largest relative gap {who}, {where}", "", gap)
        yield at_most(found, 1e-10) if precision == "float64" else found


def preset_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Training and scoring of every preset, and a training step with fine patches."""
    for preset in sizes.presets:
        config = training.sized(preset, **dict(sizes.preset_options))
        network, images = training.network_of(config), training.smooth_images(config, config.batch_size)
        step = side_by_side({"it": training.our_steps(network, images)}, min(3, sizes.repeats))["it"]
        yield row(f"training, preset {preset}", "images/s", len(images) / step)
        score = side_by_side({"it": training.our_scores(network, images)}, min(3, sizes.repeats))["it"]
        yield row(f"scoring, preset {preset}", "images/s", len(images) / score)
    found = memory_of("steps", literal=False, steps=1, preset="paper", **dict(sizes.fine_options))
    what = f"training step, preset paper at N = {sizes.fine}, batch 1, reconstruction vector of 32"
    yield at_most(row(f"{what}, peak memory", "MB", found["peak"] / MB), 4096)
    yield row(what, "ms", 1e3 * found["seconds"])


def filter_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Texture features of a batch, against products with whole rows of pixels."""
    size, grid, levels = sizes.filters
    made = {"image_size": size, "grid": grid, "levels": levels}
    whole, bank = WholeRows(**made), FilterBank(**made)
    grey = 255 * torch.rand(sizes.batch, size, size, generator=torch.Generator().manual_seed(0))
    functions = {"ours": lambda: texture_features(bank, grey), "theirs": lambda: whole(grey)}
    with torch.inference_mode():
        found = side_by_side(functions, sizes.repeats)
    where = f"{sizes.batch} images of {size} px"
    yield row(f"filters, {where}", "ms", 1e3 * found["ours"], 1e3 * found["theirs"], "products with whole rows")


def notebook_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Every notebook at profile smoke; the first ones also train what later ones find in the store."""
    for name, seconds in wall_times(sizes.notebooks):
        yield row(f"notebook {name}, profile smoke", "s", seconds)


def metric_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """AU-PRO, pixel-level AUROC and AP of many maps, on one thread."""
    maps, masks = maps_and_masks(*sizes.maps)
    ours = seconds_of(maps, masks, sizes.repeats)
    what = f"AU-PRO, pixel AUROC and AP of {len(maps)} maps of {maps.shape[1]} px"
    yield at_most(row(what, "s", ours), 1)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        size = dict(count=len(maps), side=maps.shape[1], repeats=sizes.repeats)
        ours = memory_of("pixel_metrics", NUMPY_AVX2, **size)["result"]
        yield at_most(row(f"{what}, NumPy's sort with AVX2", "s", ours), 1)
    few = slice(0, max(2, len(maps) // 10))
    loop = side_by_side({"it": lambda: loop_aupro(maps[few], masks[few], sizes.loop_thresholds)}, 0)["it"]
    part = seconds_of(maps[few], masks[few], sizes.repeats)
    what = f"AU-PRO of {len(maps[few])} maps, against a loop over {sizes.loop_thresholds} thresholds"
    yield row(what, "s", part, loop, "loop")


def all_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Every row, in the order of the table.

    The discrepancy and the attention layer, ours and the opponents', with the memory allocation that PyTorch comes
    with, after a first batch of images was freed; the rest where freed memory stays with the process, as in every
    command and its workers.
    """
    torch.manual_seed(0)
    torch.empty(BATCH_OF_IMAGES, dtype=torch.uint8)
    for part in (discrepancy_rows, layer_rows):
        yield from part(sizes)
    keep_freed_memory()
    for part in (kept_rows, vt_adl_rows, preset_rows, filter_rows, metric_rows, notebook_rows):
        yield from part(sizes)
