"""The tensor meter against other people's: PyTorch's private MemTracker and its profiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_accum import Split, SummedLoss
from mtl_accum.memory import TrainingStep
from mtl_accum.testing import NETWORKS, profiler_peak

CPU = torch.device("cpu")
FLOAT = 4
WITH_SUMS = ("many_heads", SummedLoss())  # its peak is where the heads' gradients of the representation meet


def tracked(step: Any, model: Any, optimizer: Any, batch: Any) -> Any:
    """The peak by PyTorch's private MemTracker, of the one step that it can follow: it fails when modules run twice."""
    tools = pytest.importorskip("torch.distributed._tools.mem_tracker")
    tracker = tools.MemTracker()
    tracker.track_external(model, optimizer, *batch.values())
    with tracker:
        step()
    return tracker.get_tracker_snapshot("peak")[CPU]["Total"]


@pytest.mark.parametrize(
    ("name", "edition"),
    [(name, edition) for name in NETWORKS for edition in (SummedLoss(), Split()) if (name, edition) != WITH_SUMS],
)
def test_equals_torchs_own_tracker(name: Any, edition: Any) -> None:
    torch.manual_seed(0)
    model, batch = NETWORKS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model.trunk, model.tasks, batch, optimizer, edition)
    with step.tensor_meter() as meter:
        step()
    assert meter.result().peak_bytes == tracked(step, model, optimizer, batch)


def test_where_gradients_meet_there_are_two_of_them_and_not_three() -> None:
    """Autograd adds in place, but not while a dispatch mode watches: MemTracker counts a tensor that nobody needs."""
    name, edition = WITH_SUMS
    torch.manual_seed(0)
    model, batch = NETWORKS[name](width=256, samples=1024)
    step = TrainingStep(model.trunk, model.tasks, batch, None, edition)
    step()
    with step.tensor_meter(trace=True) as meter:
        step()
    found = meter.result()
    risen = found.peak_bytes - found.base_bytes
    assert profiler_peak(step) == pytest.approx(risen, rel=1e-3)
    representation = 1024 * 256 * FLOAT
    assert tracked(step, model, None, batch) - found.peak_bytes == pytest.approx(representation, rel=0.05)
    live = highest = 0
    for event in meter.events:  # what a snapshot and the simulated allocator see
        live += event.size
        highest = max(highest, live)
    assert highest == found.peak_bytes
