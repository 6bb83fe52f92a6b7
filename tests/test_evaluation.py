"""evaluation.py and results.py: what is judged against what, and what a record says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from advit.evaluation import IMAGE_KEYS, PIXEL_KEYS, all_metrics
from advit.results import PACKAGES, code_version, provenance
from advit.samples import Sample

HERE = Path("x.png")


def case():
    kinds = ("good", "crack", "good", "stain", "crack")
    samples = tuple(Sample(HERE, kind, None if kind == "good" else HERE) for kind in kinds)
    masks = np.zeros((5, 4, 4), dtype=bool)
    masks[[1, 3, 4], 0, :2] = True
    maps = np.zeros((5, 4, 4))
    maps[1, 0, :2], maps[3, 3, 3], maps[4, 0, 0] = 5, 4, 3
    return samples, masks, maps, np.array([1.0, 5.0, 2.0, 0.5, 3.0])


def test_each_kind_is_judged_against_all_defect_free_images():
    samples, masks, maps, scores = case()
    found = all_metrics(maps, scores, samples, masks)
    assert found["image_auroc"] == pytest.approx(4 / 6)  # stain's 0.5 loses to 1 and 2
    assert found["per_defect"]["crack"]["image_auroc"] == 1
    assert found["per_defect"]["stain"]["image_auroc"] == 0
    crack, stain = (found["per_defect"][kind]["pixel_auroc"] for kind in ("crack", "stain"))
    assert crack > found["pixel_auroc"] > stain
    assert list(found["per_defect"]) == ["crack", "stain"]


def test_pixel_metrics_are_empty_where_a_mask_is_missing():
    samples, masks, maps, scores = case()
    samples = (*samples[:3], Sample(HERE, "stain"), samples[4])
    found = all_metrics(maps, scores, samples, masks)
    assert [found[k] for k in PIXEL_KEYS] == [None] * 4 and all(found[k] is not None for k in IMAGE_KEYS)
    assert found["per_defect"]["stain"]["aupro_0.3"] is None
    assert found["per_defect"]["crack"]["aupro_0.3"] is not None


def test_provenance_names_code_versions_device_seed_data_and_time():
    record = provenance(code_version(), device=torch.device("cpu"), seed=3, data_digest="d", seconds=1.234)
    assert (record["seed"], record["data_digest"], record["seconds"]) == (3, "d", 1.2)
    assert set(record["versions"]) == set(PACKAGES) and record["versions"]["torch"] == torch.__version__
    assert record["device"].startswith("cpu (") and {"commit", "dirty"} <= set(record)
