"""Profiles of the reproduction: which model, data, seeds and sweeps ``smoke``, ``quick`` and ``paper`` stand for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from advit.config import ADViTConfig, with_options
from advit.errors import ConfigError, nearest
from advit.presets import PRESETS

TINY = dict(
    image_size=32, patch=8, dim=24, depth=2, heads=2, mlp_dim=32, sigma_max=4.0, bottleneck=16, density_hidden=16,
    epochs=24, max_steps=48, batch_size=6, precision="float64", shift=1, evaluation_size=64, learning_rate=3e-3,
)  # fmt: skip
SMALL = dict(
    image_size=64, patch=8, dim=48, depth=2, heads=4, mlp_dim=96, sigma_max=4.0, bottleneck=48, density_hidden=48,
    max_steps=120, shift=1, evaluation_size=128, precision="float32",
)  # fmt: skip


PLACES = 4  # per side of a patch for density_target=filters, where the base of a profile has another target


@dataclass(frozen=True)
class Profile:
    """What a notebook runs at.

    main: the model of the result tables. base: the model of the ablations, in which one option is changed at a time.
    opponent: what the public code computes, ``vt_adl``. seeds: of main and opponent. ablation_seeds: of the ablations;
    the noise claim has noise_seeds. embedded: arguments of :func:`advit.synthetic.embedded_root`. floor_size: pixels
    the classical floors work at. processes: at most so many runs side by side, each of one thread.
    """

    name: str
    main: ADViTConfig
    base: ADViTConfig
    opponent: ADViTConfig
    seeds: tuple[int, ...]
    ablation_seeds: tuple[int, ...]
    noise_seeds: tuple[int, ...]
    noise_levels: tuple[float, ...]
    gaussians: tuple[int, ...]
    lambdas: tuple[float, ...]
    floor_size: int = 256
    processes: int = 64
    embedded: dict[str, Any] = field(default_factory=dict)


def quick_opponent() -> ADViTConfig:
    """``vt_adl`` at the image size of ``quick``, at the public grid of 8 x 8 patches, for about the time of ``quick``.

    One of its steps takes many times as long, since its decoder makes 512 x 512 pixels whatever the image.
    """
    return replace(PRESETS["vt_adl"], image_size=128, patch=16, epochs=100, max_steps=40, evaluation_size=256)


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        name="smoke",
        main=with_options(PRESETS["quick"], TINY),
        base=with_options(PRESETS["quick"], TINY),
        opponent=with_options(
            PRESETS["vt_adl"],
            dict(image_size=32, patch=8, dim=16, depth=1, heads=2, mlp_dim=32, components=3, batch_size=2, max_steps=3,
                 evaluation_size=64),  # float32: the public decoder takes minutes in float64
        ),
        seeds=(0,), ablation_seeds=(0, 1), noise_seeds=(0, 1), noise_levels=(0.0, 0.2, 0.5), gaussians=(1, 3),
        lambdas=(3.0,), floor_size=64, processes=1,
        embedded=dict(
            name="synthetic-smoke", categories=["gear", "weave"], image_size=64, n_train=12, n_test_good=4,
            n_per_defect=1,
        ),
    ),
    "quick": Profile(
        name="quick",
        main=PRESETS["quick"],
        base=with_options(PRESETS["quick"], SMALL),
        opponent=quick_opponent(),
        seeds=(0,), ablation_seeds=(0, 1, 2), noise_seeds=(0, 1, 2, 3, 4), noise_levels=(0.0, 0.2, 0.5),
        gaussians=(1, 3, 15), lambdas=(3.0,),
    ),
    "paper": Profile(
        name="paper",
        main=PRESETS["paper"],
        base=PRESETS["paper"],
        opponent=PRESETS["vt_adl"],
        seeds=(0, 1, 2), ablation_seeds=(0, 1, 2), noise_seeds=(0, 1, 2, 3, 4), noise_levels=(0.0, 0.1, 0.2, 0.5),
        gaussians=(1, 10, 50, 150), lambdas=(0.1,),
    ),
}  # fmt: skip


def find_profile(name: str) -> Profile:
    """The profile of this name. Raises ConfigError naming the nearest."""
    if name not in PROFILES:
        raise ConfigError(f"Unknown profile {name!r}: choose {', '.join(PROFILES)}.{nearest(name, list(PROFILES))}")
    return PROFILES[name]


@dataclass(frozen=True)
class Experiment:
    """Variants to compare, every one with every category and seed: name of the variant -> configuration."""

    variants: dict[str, ADViTConfig]
    seeds: tuple[int, ...]
    pictures: bool = False


def experiments(profile: Profile, seeds: tuple[int, ...] = ()) -> dict[str, Experiment]:
    """All experiments of a profile; ``seeds``, if given, replaces its own everywhere.

    main: ADViT. vt_adl: the public computation. minimax: both phases, one, none, and other weights lambda (C2).
    noise: sd of the noise on the encoded features (C4). gaussians: number K of the mixture's components (C6).
    conditioning: what the mixture of a patch is predicted from, the patch itself hidden or seen.

    A configuration that occurs twice is trained once. Test: tests/test_profiles.py
    """
    base = profile.base
    mine, ablation, noise = (seeds or s for s in (profile.seeds, profile.ablation_seeds, profile.noise_seeds))
    minimax = {
        f"minimax, lambda {base.minimax_lambda:g}": base,
        "maximise only": replace(base, minimax="maximise"),
        "none": replace(base, minimax="none", minimax_lambda=0.0),
    }
    cells = base.target_cells if base.density_target == "filters" else PLACES
    filters = replace(base, density_target="filters", target_cells=cells)
    pixels = replace(base, density_target="pixels", target_cells=1)
    minimax |= {f"minimax, lambda {x:g}": replace(base, minimax_lambda=x) for x in profile.lambdas}
    return {
        "main": Experiment({"advit": profile.main}, mine, pictures=True),
        "vt_adl": Experiment({"vt_adl": profile.opponent}, mine),
        "minimax": Experiment(minimax, ablation),
        "noise": Experiment({f"sd {x:g}": replace(base, noise_sd=x) for x in profile.noise_levels}, noise),
        "gaussians": Experiment({f"K={k}": replace(base, components=k) for k in profile.gaussians}, ablation),
        "conditioning": Experiment(
            {
                "hidden": replace(filters, density_context="others"),
                "hidden, pixels": replace(pixels, density_context="others"),
                "seen": replace(filters, density_context="self"),
                "seen, encoded": replace(pixels, density_context="self", density_target="encoded"),
            },
            ablation,
        ),
    }
