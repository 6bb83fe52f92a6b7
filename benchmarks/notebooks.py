"""Wall time of every notebook at profile ``smoke``, in their order, from an empty store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from advit.notebooks import execute
from advit.reproduce import choose_notebooks, make_job


def wall_times(numbers: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Name and seconds of the notebooks of these numbers, run as copies that share one store."""
    with tempfile.TemporaryDirectory() as place:
        job = make_job("smoke", None, (), (), "", Path(place))
        environment = job.environment(torch.device("cpu"))
        for path in choose_notebooks(numbers) if numbers else []:
            start, copy = time.perf_counter(), job.results / path.name
            execute(path, copy, job.parameters(), environment=environment, cwd=path.parent, progress=False)
            yield path.stem, time.perf_counter() - start
