"""phases.py: what a phase must move, and what it must not."""

import numpy as np
import torch

from advit.phases import GROUPS, fresh_network, phase_gradients
from advit.profiles import PROFILES

CONFIG = PROFILES["smoke"].base
PIXELS = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_each_phase_reaches_its_own_side_of_its_layer_and_both_are_their_sum():
    table = phase_gradients(fresh_network(CONFIG, 0, PIXELS), PIXELS).set_index("phase")
    sigma, series, values, earlier = GROUPS
    assert table.loc["minimise", series] == 0 and table.loc["minimise", sigma] > 0
    assert table.loc["maximise", sigma] == 0 and table.loc["maximise", series] > 0
    assert (table[values] == 0).all() and (table[earlier] > 0).all()
    assert np.isclose(table.loc["both", sigma], table.loc["minimise", sigma], rtol=1e-12)
    assert np.isclose(table.loc["both", series], table.loc["maximise", series], rtol=1e-12)


def test_nothing_is_left_behind():
    network = fresh_network(CONFIG, 0, PIXELS)
    phase_gradients(network, PIXELS)
    assert all(p.grad is None for p in network.parameters())
