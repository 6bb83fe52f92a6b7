"""profiles.py: every experiment changes what it says and nothing else."""

from dataclasses import asdict

import pytest

from advit.errors import ConfigError
from advit.presets import PRESETS
from advit.profiles import PROFILES, experiments, find_profile

CHANGES = {
    "minimax": {"minimax", "minimax_lambda"},
    "noise": {"noise_sd"},
    "gaussians": {"components"},
    "conditioning": {"density_context", "density_target", "target_cells"},
}


@pytest.mark.parametrize("name", PROFILES)
def test_an_ablation_changes_its_own_option_alone(name):
    profile = PROFILES[name]
    for experiment, options in CHANGES.items():
        for variant, config in experiments(profile)[experiment].variants.items():
            base, found = asdict(profile.base), asdict(config)
            assert {k for k in base if base[k] != found[k]} <= options, (experiment, variant)


@pytest.mark.parametrize("name", PROFILES)
def test_every_comparison_of_the_claims_has_both_sides(name):
    found = experiments(PROFILES[name])
    assert {"none", "maximise only"} <= set(found["minimax"].variants)
    assert next(iter(found["minimax"].variants)) == f"minimax, lambda {PROFILES[name].base.minimax_lambda:g}"
    assert {"sd 0", "sd 0.2"} <= set(found["noise"].variants)
    assert len(found["gaussians"].variants) >= 2 and "hidden" in found["conditioning"].variants
    assert found["noise"].variants["sd 0.2"] == PROFILES[name].base or PROFILES[name].base.noise_sd != 0.2


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_what_conditions_the_mixture_changes_step_by_step(name):
    base = PROFILES[name].base
    assert (base.density_context, base.density_target, base.target_cells) == ("others", "filters", 2)
    found = {
        variant: {k: v for k, v in asdict(c).items() if v != asdict(base)[k]}
        for variant, c in experiments(PROFILES[name])["conditioning"].variants.items()
    }
    assert found == {
        "hidden": {},
        "hidden, pixels": {"density_target": "pixels", "target_cells": 1},
        "seen": {"density_context": "self"},
        "seen, encoded": {"density_context": "self", "density_target": "encoded", "target_cells": 1},
    }


def test_profiles_are_the_presets_they_name():
    assert find_profile("quick").main == PRESETS["quick"]
    assert find_profile("paper").main == PROFILES["paper"].base == PRESETS["paper"]
    assert find_profile("paper").opponent == PRESETS["vt_adl"]


def test_seeds_replace_those_of_every_experiment():
    assert {e.seeds for e in experiments(PROFILES["quick"], (7, 8)).values()} == {(7, 8)}


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'quik': choose smoke, quick, paper\. Did you mean 'quick'"):
        find_profile("quik")
