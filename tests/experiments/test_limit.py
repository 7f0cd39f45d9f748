"""The limit's arithmetic, on a network whose saved tensors can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.limit.run import Subject, write
from experiments.limit.saved import limit_of
from mtl_accum import MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.memory import TrainingStep
from mtl_accum.testing import convolutional

SAMPLES, WIDTH = 16, 8


def parts() -> tuple[Any, Any, Any, Any]:
    trunk = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh())
    tasks = {
        "small": Task(nn.Linear(WIDTH, 1), nn.MSELoss(), "y"),
        "large": Task(nn.Sequential(nn.Linear(WIDTH, 100), nn.Tanh(), nn.Linear(100, 1)), nn.MSELoss(), "y"),
    }
    model = MultiTaskModel(trunk, tasks, "x")
    batch = {"x": torch.randn(SAMPLES, 4), "y": torch.randn(SAMPLES, 1)}
    return model.trunk, model.tasks, batch, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_every_storage_is_counted_once() -> None:
    found = limit_of(parts())
    in_trunk, in_heads = 4 * WIDTH + WIDTH, (WIDTH + 1) + (100 * WIDTH + 100) + (100 + 1)
    values = SAMPLES * (4 + 1)
    assert found.fixed == 4 * (2 * (in_trunk + in_heads) + values), "parameters, momentum, batch"
    assert (found.trunk_gradients, found.head_gradients) == (4 * in_trunk, 4 * in_heads)
    assert found.trunk == 4 * SAMPLES * WIDTH, "tanh saves its result, which is the representation"
    assert found.representation == 0
    assert found.gradient == 4 * SAMPLES * WIDTH
    assert found.name == "large"
    assert found.head == 4 * (SAMPLES * 100 + SAMPLES), "tanh's result and the loss's input"
    assert found.heads == found.head + 4 * SAMPLES
    assert found.bound <= found.budget


def test_a_loss_in_chunks_saves_no_logits() -> None:
    whole, chunks = (Subject("lm_heads", overrides, 0.03, 2, "cpu").limit() for overrides in ((), ("model.chunks=4",)))
    assert whole[1] == chunks[1] == 2
    assert (whole[0].fixed, whole[0].trunk) == (chunks[0].fixed, chunks[0].trunk)
    assert chunks[0].head < whole[0].head


def row(passes: Any, seconds: float = 0.1, **more: Any) -> dict[str, Any]:
    ratios = {"time_over_summed": [0.9, seconds / 0.1, 1.2], "time_over_pieces": [0.9, 1.0, 1.2]}
    return {"passes": passes, "peak": passes, "peak_phase": "head large backward", "seconds": seconds, **ratios, **more}


def test_the_report_says_what_is_missed_and_why(tmp_path: Path) -> None:
    limit, _ = Subject("lm_heads", (), 0.03, 2, "cpu").limit()
    figures = {**vars(limit), "budget": limit.budget, "bound": limit.bound}
    device = [{"peak_bytes": 2**20, "reserved_bytes": 2**21, "process_bytes": None}]
    rows = {name: row(2 * limit.budget, device=device) for name in ("summed", "per_task", "bare pieces")}
    met = {**rows, "split": row(limit.budget), "cached": {"failure": "it is refused"}}
    missed = {**rows, "split": row(1.5 * limit.budget, 0.11), "cached": row(limit.budget)}
    results = {name: {"limit": figures, "editions": found} for name, found in {"met": met, "missed": missed}.items()}
    write(results, "cpu", {"met": 0.5, "missed": 1.0}, 3, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "- met, memory: 1.000 of one graph at a time: met." in page
    assert "1.500 of one graph at a time: **missed** by 0.480: it peaks in head large backward, at 0.750 of" in page
    assert (
        "- missed, time: 1.100 of the summed loss (the middle half of its rounds is 0.900 to 1.200): **missed**" in page
    )
    assert "by 0.080, by less than the rounds differ." in page
    assert "| met | cached | it is refused |" in page
    assert "| met | summed | 1 MiB | 2 MiB | – |" in page
    assert (tmp_path / "limit.png").stat().st_size > 10_000


@pytest.mark.parametrize("mode", ["fp32", "autocast"])
def test_no_schedule_is_below_the_bound(mode: str) -> None:
    torch.manual_seed(0)
    model, batch = convolutional(mode)
    optimizer = torch.optim.AdamW(model.parameters())
    limit = limit_of((model.trunk, model.tasks, batch, optimizer))
    for edition in (Split(), Split(order="reverse"), SummedLoss()):
        step = TrainingStep(model.trunk, model.tasks, batch, optimizer, edition)
        step()
        with step.tensor_meter() as meter:
            step()
        passes = max(p.peak_bytes for p in meter.result().timeline if p.kind in ("forward", "backward"))
        assert passes >= limit.bound
