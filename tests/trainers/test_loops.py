"""The pages of loops that are the user's own: plain, AMP, TorchJD."""

from __future__ import annotations

import pytest

from tests.trainers.pages import CONVOLUTIONS, furthest

network = pytest.mark.parametrize("network", [None, CONVOLUTIONS], ids=["the page's", "convolutions"])


@network
def test_plain_loop(network):
    assert furthest("plain_loop", network=network) == 0


def test_plain_loop_with_a_factor_that_rounds():
    three = {"total / 2": "total / 3", "step % 2": "step % 3"}
    assert furthest("plain_loop", changes=three) <= 1e-6


@network
@pytest.mark.parametrize("dtype", ["torch.float16", "torch.bfloat16"])
def test_amp(network, dtype):
    assert furthest("amp", network=network, changes={"torch.float16": dtype}) == 0


@network
@pytest.mark.parametrize("chunk", ["1", "None"])
@pytest.mark.parametrize("aggregator", ["Sum", "UPGrad", "PCGrad", "MGDA"])
def test_torchjd(network, aggregator, chunk):
    pytest.importorskip("torchjd", reason="torchjd is not installed: pip install mtl-accum[trainers]")
    changes = {"UPGrad": aggregator, "parallel_chunk_size=1": f"parallel_chunk_size={chunk}"}
    assert furthest("torchjd", network=network, changes=changes) == 0
