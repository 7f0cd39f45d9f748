"""The TorchJD page, with TorchJD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from mtl_accum import Split, fold
from mtl_accum.memory import TensorMeter
from tests.trainers.pages import CONVOLUTIONS, furthest, needs, run

pytestmark = needs("torchjd")

DEPTH = 'Task(dense(1), nn.L1Loss(), "depth")'
DENSE_HEADS = CONVOLUTIONS.replace(f'"depth": {DEPTH}', f"**{{str(n): {DEPTH} for n in range(8)}}")


@pytest.mark.parametrize("network", [None, CONVOLUTIONS], ids=["the page's", "convolutions"])
@pytest.mark.parametrize("chunk", ["1", "None"])
@pytest.mark.parametrize("aggregator", ["Sum", "UPGrad", "PCGrad", "MGDA"])
def test_equal_to_the_last_bit(network: Any, aggregator: str, chunk: str) -> None:
    changes = {"UPGrad": aggregator, "parallel_chunk_size=1": f"parallel_chunk_size={chunk}"}
    assert furthest("torchjd", network=network, changes=changes) == 0


def test_half_of_the_memory() -> None:
    from torchjd.aggregation import MGDA
    from torchjd.autojac import jac_to_grad, mtl_backward

    names = run("torchjd", plain=False, network=DENSE_HEADS)
    model, batch = names["model"], default_collate(names["rows"])
    assert len(model.tasks) == 9

    def peak(call: Any) -> int:
        model.zero_grad()
        with TensorMeter(torch.device("cpu"), parameters=list(model.parameters()), inputs=batch) as meter:
            z = model.trunk(batch)
            mtl_backward([call(task, z, batch) for task in model.tasks.values()], features=z, parallel_chunk_size=1)
            jac_to_grad(model.trunk.parameters(), MGDA())
        return meter.result().peak_bytes - meter.result().base_bytes

    assert peak(fold) < 0.5 * peak(lambda task, z, batch: task(z, batch))


def test_a_scalarizer() -> None:
    from torchjd.scalarization import GeometricMean

    names = run("torchjd", plain=False)
    model, batch = names["model"].eval(), default_collate(names["rows"])

    def gradients(losses: Any) -> list[torch.Tensor]:
        model.zero_grad()
        GeometricMean()(torch.stack(losses)).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients([task(model.trunk(batch), batch) for task in model.tasks.values()])
    ours = gradients([*Split().losses(model.trunk, model.tasks, batch).values()])
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
