"""curves.py: the mean of training curves of different length."""

import numpy as np
import pandas as pd

from advit.curves import averaged


def test_curves_are_averaged_over_the_steps_that_all_cover():
    one = pd.DataFrame({"step": [2, 4, 8], "x": [0.0, 2.0, 6.0]})
    two = pd.DataFrame({"step": [3, 9], "x": [4.0, 10.0]})
    found = averaged([one, two], "x")
    assert found["step"].iloc[0] == 3 and found["step"].iloc[-1] == 8
    first = found.iloc[0]  # 1 and 4
    assert first["mean"] == 2.5 and np.isclose(first["high"] - first["mean"], np.std([1, 4], ddof=1) / np.sqrt(2))


def test_epochs_without_a_measurement_are_bridged_and_one_run_has_no_band():
    found = averaged([pd.DataFrame({"step": [1, 2, 3], "x": [1.0, np.nan, 3.0]})], "x")
    assert found["mean"].tolist() == [1, 2, 3] == found["low"].tolist() == found["high"].tolist()
