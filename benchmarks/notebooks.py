"""Wall time of every notebook at profile ``smoke``, in their order, from an empty store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from advit.notebooks import execute, notebook_paths
from advit.reproduce import make_job


def wall_times(folder: Path, numbers: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Name and seconds of the notebooks of these numbers in a folder, run as copies that share one store."""
    with tempfile.TemporaryDirectory() as place:
        job = make_job("smoke", None, (), (), "", Path(place))
        for path in notebook_paths(folder):
            if path.stem[:2] not in numbers:
                continue
            start, copy = time.perf_counter(), job.results / path.name
            environment = job.environment(torch.device("cpu"))
            execute(path, copy, job.parameters(), environment=environment, cwd=folder, progress=False)
            yield path.stem, time.perf_counter() - start
