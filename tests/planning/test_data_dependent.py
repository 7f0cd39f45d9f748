"""Shapes that depend on values: measured where the network is, bounded from above or refused in words elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import MultiTaskModel, Split, Task, plan
from mtl_accum.memory import TrainingStep
from mtl_accum.planning import _timings
from mtl_accum.prediction import PredictionError, predict


def masked(out: Any, target: Any) -> Tensor:
    mask = target > 0
    return F.l1_loss(out[mask], target[mask])


def nonzero(out: Any, target: Any) -> Tensor:
    rows = torch.nonzero(target.flatten() > 0).flatten()
    return out.flatten()[rows].square().mean()


def selected(out: Any, target: Any) -> Tensor:
    return torch.masked_select(out, target > 0).mean()


def hardest(out: Any, target: Any) -> Tensor:
    """Online hard example mining."""
    losses = (out - target).square().flatten()
    return losses[losses > losses.detach().mean()].mean()


def of_classes(out: Any, target: Any) -> Any:
    return sum(out[target.round() == value].sum() for value in torch.unique(target.round()).unbind()[:2]) + out.mean()


def repeated(out: Any, target: Any) -> Tensor:
    return torch.repeat_interleave(out.flatten(), (target.flatten() > 0).long()).mean()


def matched(out: Any, target: Any) -> Tensor:
    """A matcher on the host, as set prediction has."""
    order = out.detach().flatten().numpy().argsort()
    return F.mse_loss(out.flatten()[torch.from_numpy(order.copy())], target.flatten().sort().values)


BOUNDED = [masked, nonzero, selected, hardest, of_classes]
REFUSED = [repeated, matched]


def network(loss: Any) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    tasks = {"d": Task(nn.Linear(16, 4), loss, "y"), "s": Task(nn.Linear(16, 4), nn.MSELoss(), "y")}
    model = MultiTaskModel(nn.Sequential(nn.Linear(8, 16), nn.Tanh()), tasks, "x")
    return model, {"x": torch.randn(16, 8), "y": torch.randn(16, 4)}


@pytest.fixture(autouse=True)
def _in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)


@pytest.mark.parametrize("loss", [*BOUNDED, *REFUSED])
def test_on_the_device_it_is_measured(loss: Any) -> None:
    model, batch = network(loss)
    found = plan(model.trunk, model.tasks, batch, budget="1MiB")
    step = TrainingStep(model.trunk, model.tasks, batch, None, found.edition)
    step()
    with step.tensor_meter() as meter:
        step()
    assert found.peak.peak_bytes == meter.result().peak_bytes
    assert found.peak.categories is not None
    assert "measured on this batch, not predicted" in found.notes[-1]


@pytest.mark.parametrize("loss", BOUNDED)
def test_elsewhere_it_is_bounded_from_above(loss: Any) -> None:
    model, batch = network(loss)
    bound = predict(model.trunk, model.tasks, batch, edition=Split(), device="cpu")
    assert bound.caveats[0].startswith("an upper bound: shapes depend on values in task 'd'")
    step = TrainingStep(model.trunk, model.tasks, batch, None, Split())
    with step.tensor_meter() as meter:
        step()
    assert meter.result().peak_bytes <= bound.peak_bytes <= 1.5 * meter.result().peak_bytes
    found = plan(model.trunk, model.tasks, batch, budget="1MiB", device="cuda")
    assert any(note.startswith("an upper bound") for note in found.notes)


@pytest.mark.parametrize(("loss", "line"), [(repeated, "repeat_interleave"), (matched, "numpy")])
def test_elsewhere_what_has_no_bound_is_refused_with_its_line_and_the_fix(loss: Any, line: str) -> None:
    model, batch = network(loss)
    with pytest.raises(PredictionError) as error:
        plan(model.trunk, model.tasks, batch, budget="1MiB", device="cuda")
    text = str(error.value)
    assert text.startswith("task 'd': ")
    assert (
        f"test_data_dependent.py, line {loss.__code__.co_firstlineno}" in text or "test_data_dependent.py, line" in text
    )
    assert line in text
    assert "put network and batch on the device" in text
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__
