"""Every test: one thread, a known random state, no caches of another test."""

import pytest
import torch

pytest.register_assert_rewrite("mtl_accum.testing")


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device; there is none here")
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(skip)
