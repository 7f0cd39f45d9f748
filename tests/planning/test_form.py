"""A plan for a trainer that runs the backward itself: schedules in the form of a loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import AsLoss, Checkpointed, MultiTaskModel, PerTask, Split, SummedLoss, Task, plan
from mtl_accum.memory import TrainingStep
from mtl_accum.planning import BudgetError, _timings, format_edition, schedules_of
from mtl_accum.planning._form import in_form, without_form
from mtl_accum.planning._schedule_space import candidates, left_out


def network(samples: int = 24, tasks: int = 3, width: int = 16) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, width, 3, padding=1),
        nn.GroupNorm(2, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
    ]
    heads = {
        f"t{n}": Task(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 1, 1)), nn.MSELoss(), "y"
        )
        for n in range(tasks)
    }
    model = MultiTaskModel(nn.Sequential(*layers), heads, "x")
    batch = {"x": torch.randn(samples, 3, 20, 20), "y": torch.randn(samples, 1, 20, 20)}
    return model, batch, torch.optim.AdamW(model.parameters())


@pytest.fixture(scope="module")
def planned() -> Any:
    """A budget below the summed loss's peak, and what was planned for it."""
    patience, _timings.PATIENCE = _timings.PATIENCE, 0.0
    model, batch, optimizer = network()
    found = plan(model.trunk, model.tasks, batch, optimizer=optimizer, budget="6MiB", form="loss")
    _timings.PATIENCE = patience
    return found


def test_the_schedule_is_one_to_call_loss_on(planned: Any) -> None:
    model, batch, optimizer = network()
    assert planned.form == "loss"
    assert not isinstance(planned.edition, AsLoss | SummedLoss | PerTask)
    assert planned.chosen.edition == AsLoss(planned.edition)
    step = TrainingStep(model.trunk, model.tasks, batch, optimizer, AsLoss(planned.edition))
    step()
    with step.tensor_meter() as meter:
        step()
    assert meter.result().peak_bytes == planned.peak.peak_bytes <= planned.budget.size < planned.summed.peak_bytes
    total, losses = planned.edition.loss(model.trunk, model.tasks, batch)
    assert list(losses) == list(model.tasks)
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_every_row_of_it_is_a_loss_that_was_held_against_the_summed_loss(planned: Any) -> None:
    rows = [planned.chosen, planned.summed, *planned.front, *planned.largest_batch, *planned.trials]
    assert all(isinstance(row.edition, AsLoss) for row in rows)
    assert planned.summed.edition == AsLoss(SummedLoss())
    assert "PerTask: it has no loss" in planned.left_out["PerTask"]
    kinds = {type(without_form(row.edition)).__name__ for row in planned.largest_batch}
    assert kinds == {"SummedLoss", "Split", "Cached", "Accumulated", "Checkpointed"}
    assert planned.exactness["AsLoss(Split())"].endswith(" from SummedLoss on 5 samples")
    assert all(name.startswith("AsLoss(") for name in planned.exactness)
    assert AsLoss(Split()) in [trial.edition for trial in planned.trials]
    assert planned.chosen.time_ratio > 0


def test_the_report_says_how_to_call_it(planned: Any) -> None:
    text = str(planned)
    schedule = format_edition(planned.edition)
    call = f"In the loop: total, losses = {schedule}.loss(trunk, tasks, batch), then total.backward()"
    assert call in text.replace("\\", "")
    assert planned.overrides[0] == "edition=as_loss"
    written = json.loads(json.dumps(planned.as_dict()))
    assert written["form"] == "loss"
    assert schedules_of(written) == [planned.chosen.edition, *(schedule.edition for schedule in planned.fallbacks)]


def test_nothing_fits() -> None:
    model, batch, optimizer = network()
    found = plan(model.trunk, model.tasks, batch, optimizer=optimizer, budget="100KiB", form="loss", device="cpu")
    with pytest.raises(BudgetError, match="budget: expected at least"):
        _ = found.edition
    assert "Nothing fits" in str(found)


def test_for_a_gpu_that_is_not_here() -> None:
    model, batch, optimizer = network()
    found = plan(model.trunk, model.tasks, batch, optimizer=optimizer, budget="69MiB", form="loss", device="cuda")
    assert found.peak.peak_bytes <= found.budget.size
    assert isinstance(found.chosen.edition, AsLoss)


class Half(nn.Module):
    """A head in float16, whose loss takes a scale that a plan has none for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(8, 1)

    def forward(self, z: Any) -> Any:
        with torch.autocast("cpu", torch.float16):
            return self.layers(z)


def test_what_has_no_loss_for_this_network_is_left_out_by_name() -> None:
    tasks = {name: Task(Half(), nn.MSELoss(), "y") for name in "ab"}
    batch = {"x": torch.randn(8, 4), "y": torch.randn(8, 1)}
    found = plan(
        nn.Sequential(_Input(), nn.Linear(4, 8), nn.Tanh()), tasks, batch, budget="1GiB", form="loss", device="cpu"
    )
    assert "scale=" in found.left_out["Split"]
    assert isinstance(without_form(found.edition), SummedLoss | Checkpointed)


class _Input(nn.Module):
    def forward(self, batch: Any) -> Any:
        return batch["x"]


def test_candidates_in_that_form() -> None:
    model, batch, _ = network()
    reasons = left_out(model.trunk, model.tasks, batch, on_gpu=False, form="loss")
    assert set(reasons) == {"PerTask", "Offloaded"}
    chosen = [in_form(edition, "loss") for edition in candidates(3, 24, reasons)]
    assert AsLoss(Split()) in chosen
    assert [without_form(edition) for edition in chosen] == candidates(3, 24, reasons)
    assert in_form(Split(), "forward_backward") == without_form(Split()) == Split()


def test_what_is_no_form() -> None:
    model, batch, _ = network()
    with pytest.raises(ValueError, match="form must be one of forward_backward, loss; found 'lose'"):
        plan(model.trunk, model.tasks, batch, form="lose")
