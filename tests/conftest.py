"""Every test: one thread, a known random state, no caches of another test, measured processes from a fork server."""

import gc
import os
from collections.abc import Iterator

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})  # before torch is imported

import hypothesis
import pytest
import torch

pytest.register_assert_rewrite("mtl_accum.testing")  # before it is imported

from mtl_accum.measure import start_processes_with  # noqa: E402
from tests.processes import FORK_SERVER  # noqa: E402

hypothesis.settings.register_profile("tests", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _forked_measurements() -> Iterator[None]:
    """Fork the processes of `compare` and `FreshProcess`, in place of spawning them."""
    with start_processes_with(FORK_SERVER):
        yield


def pytest_collection_finish() -> None:
    """Leave what the imports have made out of every garbage collection: meters collect before they measure."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device; there is none here")
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(skip)
