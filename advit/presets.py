"""Named configurations: the public setting, the public computation, and what works."""

from __future__ import annotations

from dataclasses import replace

from advit.config import ADViTConfig
from advit.errors import ConfigError, nearest

PRESETS: dict[str, ADViTConfig] = {
    "paper": ADViTConfig(),
    "vt_adl": ADViTConfig(
        model="vt_adl", minimax="none", minimax_lambda=0.0, standardise="none", score_standardise="none"
    ),
    "quick": ADViTConfig(
        image_size=256, patch=16, dim=96, depth=3, heads=4, mlp_dim=192, sigma_max=8.0, bottleneck=128,
        decoder_width=16, reconstruction_scale=4, components=3, density_context="others", density_target="filters",
        target_cells=2, filter_levels=3, least_change=0.02, factors=128, density_hidden=128, log_variance_floor=-1.0,
        mask_blocks="4,all", minimax_lambda=0.001,
        epochs=300, max_steps=150, batch_size=8, learning_rate=2e-3, schedule="cosine", gradient_clip=1.0, shift=4,
        brightness=0.05, precision="auto", kernels="auto", density_score="surprise", near_share=0.25,
        most_deviation=8.0, density_weight=20.0, score_standardise="shrunk", score_sigma=8.0, fade=6.0,
    ),
}  # fmt: skip
PRESETS["advit"] = replace(  # quick, looking twice as close; shift and decoder stay the same in parts of the image
    PRESETS["quick"], image_size=512, patch=32, shift=8, reconstruction_scale=8,
)  # fmt: skip


def preset(name: str) -> ADViTConfig:
    """The preset of this name; an unknown one raises and names the nearest."""
    if name not in PRESETS:
        raise ConfigError(f"Unknown preset {name!r}: choose {', '.join(PRESETS)}.{nearest(name, list(PRESETS))}")
    return PRESETS[name]
