"""Fixtures of the models' tests."""

from __future__ import annotations

import pytest
import torch

from tests.models.vocabulary import Network


@pytest.fixture
def network() -> Network:
    """A network in float64 that ends in a vocabulary."""
    torch.manual_seed(0)
    return Network().double()
