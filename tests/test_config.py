"""config.py: validation, presets, --set, and the nearest valid name."""

import json

import pytest

from advit.config import ADViTConfig, parse_options, with_options
from advit.errors import ConfigError
from advit.presets import PRESETS, preset


def test_defaults_are_the_public_setting():
    c = PRESETS["paper"]
    found = (c.image_size, c.patch, c.dim, c.depth, c.heads, c.mlp_dim, c.components, c.learning_rate, c.weight_decay)
    assert found == (512, 64, 512, 6, 8, 1024, 10, 1e-4, 1e-4)
    assert (c.batch_size, c.epochs, c.noise_sd, c.minimax_lambda) == (8, 400, 0.2, 3)
    assert (c.mse_weight, c.ssim_weight) == (5, 0.5)
    assert (c.map_sigma, c.minimax, c.schedule) == (4.0, "both", "constant")


def test_every_option_has_an_explanation_and_survives_json():
    for name, config in PRESETS.items():
        assert with_options(ADViTConfig(), json.loads(json.dumps(config.to_dict()))) == config, name
    assert all(f.metadata["help"] for f in ADViTConfig.__dataclass_fields__.values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epoch": 3}, "Unknown option 'epoch'. Did you mean 'epochs'?"),
        ({"patch": 60}, "image_size=512 is not a multiple of patch=60."),
        ({"heads": 7}, "dim=512 is not a multiple of heads=7."),
        ({"score": "densty"}, "Did you mean 'density'?"),
        ({"epochs": 0}, "epochs=0: must be above zero."),
        ({"learning_rate": float("nan")}, "learning_rate=nan: must be a finite number"),
        ({"epochs": 2.5}, "epochs must be int, got 2.5."),
        ({"mask_share": 1.0}, "smoothing_eps and mask_share must lie between 0 and 1"),
        ({"target_dim": 99999}, "a patch has only 12288 values"),
        ({"score_shifts": 3}, "score_shifts=3: the shifts of patch=64 would not be whole pixels"),
        ({"shift": 512}, "shift=512: must be below image_size=512."),
        ({"log_variance_floor": float("nan")}, "log_variance_floor=nan: must lie between"),
        ({"score": "combined", "standardise": "none"}, "score=combined adds maps of different units"),
        ({"score": "combined", "score_standardise": "none"}, "set score_standardise=image, position or shrunk"),
        ({"least_change": 0.0}, "least_change=0.0: must be above zero"),
        ({"model": "vt_adl", "mse_weight": 1.0}, "model=vt_adl has the public weights"),
        ({"model": "vt_adl", "score": "discrepancy"}, "vt_adl has no prior-association"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError) as error:
        with_options(ADViTConfig(), options)
    assert message in str(error.value)


SQUARES = "sides from 1 to 8, not all alone, as 1,2,all."


@pytest.mark.parametrize(
    "options, message",
    [
        ({"target_cells": 0}, "target_cells=0: must be above zero."),
        ({"target_cells": 2}, "target_cells above 1 needs density_target=filters and score_shifts=1."),
        (
            {"target_cells": 2, "density_target": "filters", "score_shifts": 2},
            "target_cells above 1 needs density_target=filters and score_shifts=1.",
        ),
        (
            {"target_cells": 17, "density_target": "filters"},
            "target_cells=17: places of patch=64 need 4 pixels or more.",
        ),
        (
            {"patch": 2, "target_dim": 12, "density_target": "filters"},
            "target_cells=1: places of patch=2 need 4 pixels or more.",
        ),
        (
            {"target_cells": 3, "density_target": "filters"},
            "target_cells=3: places of patch=64 need 4 pixels or more.",
        ),
        ({"mask_blocks": "1,0"}, f"mask_blocks=1,0: {SQUARES}"),
        ({"mask_blocks": "1,-2"}, f"mask_blocks=1,-2: {SQUARES}"),
        ({"mask_blocks": "1,,2"}, f"mask_blocks=1,,2: {SQUARES}"),
        ({"mask_blocks": "1,most"}, f"mask_blocks=1,most: {SQUARES}"),
        ({"mask_blocks": ""}, f"mask_blocks=: {SQUARES}"),
        ({"mask_blocks": "all"}, f"mask_blocks=all: {SQUARES}"),
        ({"mask_blocks": 2}, "mask_blocks must be str, got 2."),
        ({"density_target": "filter"}, "density_target='filter': must be one of filters, pixels, encoded. "
         "Did you mean 'filters'?"),
        ({"density_score": "suprise"}, "density_score='suprise': must be one of nll, surprise. "
         "Did you mean 'surprise'?"),
        ({"reconstruction_scale": 0}, "reconstruction_scale=0: must be above zero."),
        ({"reconstruction_scale": -2}, "reconstruction_scale=-2: must be a finite number, zero or more."),
        ({"reconstruction_scale": 3}, "reconstruction_scale=3 does not divide patch=64."),
        ({"reconstruction_scale": 128}, "reconstruction_scale=128 does not divide patch=64."),
        ({"reconstruction_scale": 2.0}, "reconstruction_scale must be int, got 2.0."),
        ({"standardise": "shrink"}, "standardise='shrink': must be one of shrunk, position, image, none. "
         "Did you mean 'shrunk'?"),
        ({"factors": 513}, "factors=513: must be at most 512."),
        ({"most_deviation": -1.0}, "most_deviation=-1.0: must be a finite number, zero or more."),
        ({"near_share": 1.5}, "top_share and near_share must be at most 1."),
        ({"density_target": "filters", "filter_levels": 1},
         "filter_levels=1: the longest wavelength, 4 px, must be 8 px or more and fit into image_size=512."),
        ({"density_target": "filters", "filter_levels": 9},
         "filter_levels=9: the longest wavelength, 1024 px, must be 8 px or more and fit into image_size=512."),
        ({"score": "combined", "standardise": "none"},
         "score=combined adds maps of different units: set standardise=image, position or shrunk."),
    ],
)  # fmt: skip
def test_errors_of_the_density_s_options_to_the_letter(options, message):
    with pytest.raises(ConfigError) as error:
        with_options(ADViTConfig(), options)
    assert str(error.value) == message


def test_sides_of_squares_in_patches():
    for text, sides in [("1", [1]), ("1,2,all", [1, 2, 8]), ("2,2", [2, 2]), ("8,9,all", [4, 4, 8])]:
        assert ADViTConfig(mask_blocks=text).block_sides == sides
    assert ADViTConfig(image_size=64, mask_blocks="all").block_sides == [1]  # one patch: nothing else to hide
    assert ADViTConfig(density_target="filters", target_cells=16).target_cells == 16
    assert ADViTConfig(reconstruction_scale=64).reconstruction_scale == 64
    assert parse_options(["mask_blocks=1,2,all", "target_cells=2"]) == {"mask_blocks": "1,2,all", "target_cells": 2}


def test_set_takes_the_type_of_the_option():
    assert parse_options(["epochs=3", "learning_rate=1e-3", "score=combined"]) == {
        "epochs": 3, "learning_rate": 1e-3, "score": "combined",
    }  # fmt: skip


@pytest.mark.parametrize(
    "pair, message",
    [
        ("epochs", "write it as name=value"),
        ("epochs=many", "epochs takes int, not 'many'"),
        ("epoch=3", "Did you mean 'epochs'?"),
    ],
)
def test_set_explains_what_is_wrong(pair, message):
    with pytest.raises(ConfigError, match="(?s).*" + message.replace("?", r"\?")):
        parse_options([pair])


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'quick'"):
        preset("quik")
