"""What a plan calls exact: it is, by numbers, on the network itself; what is not is left out by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Edition, SummedLoss, Task, plan
from mtl_accum.planning import _exactness, _timings
from mtl_accum.planning._simplicity import kind, passes, pieces
from mtl_accum.verify._difference import gradient_difference

SAMPLES = 24


class Stateful(nn.Module):
    """Hidden state is carried over batches in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.state = nn.GRU(4, 8, batch_first=True), None

    def forward(self, batch: Any) -> Any:
        kept = self.state if self.state is not None and self.state.shape[1] == len(batch["x"]) else None
        out, state = self.rnn(batch["x"], kept)
        self.state = state.detach()
        return out


class HandWrittenNorm(nn.Module):
    def forward(self, batch: Any) -> Any:
        x = batch["x"].flatten(1)
        return (x - x.mean(0)) / (x.std(0) + 1e-3)


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(20, 8))

    def forward(self, batch: Any) -> Any:
        return self.layer(batch["x"].flatten(1))


def plain() -> _Flat:
    return _Flat(nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 8)))


class _Flat(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, batch: Any) -> Any:
        return self.layers(batch["x"].flatten(1))


def dice(out: Any, target: Any) -> Any:
    out, target = out.sigmoid(), (target > 0).float()
    return 1 - 2 * (out * target).sum() / (out.sum() + target.sum())


def heads(loss: Any = F.mse_loss, width: int = 8) -> dict[str, Any]:
    return {name: Task(nn.Sequential(nn.Linear(width, 128), nn.Linear(128, 1)), loss, name) for name in "ab"}


def sum_of_squares(out: Any, target: Any) -> Tensor:
    return (out - target).square().sum()


NETWORKS = {
    "hidden state": (Stateful, F.mse_loss, (SAMPLES, 5, 1)),
    "hand-written batch norm": (lambda: nn.Sequential(HandWrittenNorm(), nn.Linear(20, 8)), F.mse_loss, (SAMPLES, 1)),
    "spectral norm": (Spectral, F.mse_loss, (SAMPLES, 1)),
    "dice": (plain, dice, (SAMPLES, 1)),
    "sum": (plain, sum_of_squares, (SAMPLES, 1)),
}


@pytest.fixture(autouse=True)
def _in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)


def gradients(trunk: Any, tasks: Any, batch: Any, edition: Edition, state: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    modules = nn.ModuleList([trunk, *tasks.values()])
    modules.load_state_dict(state)
    if hasattr(trunk, "state"):
        trunk.state = torch.ones(1, SAMPLES, 8)
    modules.zero_grad()
    edition.forward_backward(trunk, tasks, batch)
    return {name: p.grad for name, p in modules.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_chosen_is_exact_and_what_differs_is_left_out(name: str) -> None:
    make, loss, shape = NETWORKS[name]
    torch.manual_seed(0)
    trunk, tasks = make(), heads(loss)
    batch = {"x": torch.randn(SAMPLES, 5, 4), "a": torch.randn(shape), "b": torch.randn(shape)}
    found = plan(trunk, tasks, batch, budget="1GiB")
    state = {k: v.clone() for k, v in nn.ModuleList([trunk, *tasks.values()]).state_dict().items()}
    expected = gradients(trunk, tasks, batch, SummedLoss(), state)
    for edition in [found.edition, *(schedule.edition for schedule in found.front)]:
        assert gradient_difference(gradients(trunk, tasks, batch, edition, state), expected) < 1e-4, edition
    assert set(found.left_out) > {"Offloaded"}


def test_in_a_budget_for_which_only_a_wrong_schedule_is_small_enough_nothing_fits() -> None:
    torch.manual_seed(0)
    trunk, tasks = Stateful(), heads()
    batch = {"x": torch.randn(SAMPLES, 5, 4), **{name: torch.randn(SAMPLES, 5, 1) for name in "ab"}}
    found = plan(trunk, tasks, batch, budget="60KiB")
    assert found.chosen is None
    assert {"Cached", "Accumulated", "PerTask"} <= set(found.left_out)
    assert found.peak.peak_bytes > 60 << 10


def test_an_honest_network_loses_nothing() -> None:
    torch.manual_seed(0)
    trunk, tasks = plain(), heads()
    batch = {"x": torch.randn(SAMPLES, 5, 4), "a": torch.randn(SAMPLES, 1), "b": torch.randn(SAMPLES, 1)}
    found = plan(trunk, tasks, batch, budget="1GiB")
    assert set(found.left_out) == {"Offloaded"}
    assert set(found.exactness) >= {
        "PerTask()",
        "Cached(chunk_size=3)",
        "Split(head_chunks=2)",
        "Checkpointed(Split())",
    }
    assert all(" from SummedLoss on " in text for text in found.exactness.values()), found.exactness
    assert found.notes == ()
    assert "## Compared with SummedLoss" in str(found)


def test_where_the_network_is_not_on_the_device_it_says_so() -> None:
    trunk, tasks = plain(), heads()
    batch = {"x": torch.randn(SAMPLES, 5, 4), "a": torch.randn(SAMPLES, 1), "b": torch.randn(SAMPLES, 1)}
    found = plan(trunk, tasks, batch, budget="1GiB", device="cuda")
    assert found.exactness == {}
    assert found.notes == ("exactness not checked, since the network is not on the device: job=check does it",)
    assert "job=check does it" in str(found)


def test_what_no_sample_can_be_had_for_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, tasks = plain(), heads()
    batch = {"x": torch.randn(SAMPLES, 5, 4), "a": torch.randn(SAMPLES, 1), "b": torch.randn(SAMPLES, 1)}

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_exactness, "examine", fail)
    found = plan(trunk, tasks, batch, budget="1GiB")
    reasons = {text for text in found.exactness.values() if not text.startswith("as ")}
    assert reasons == {"not checked: memory ran out"}  # which schedules are tried depends on their times
    assert all(text[3:] in found.exactness for text in found.exactness.values() if text.startswith("as "))
    monkeypatch.setattr(_exactness, "_PATIENCE", 0.0)
    found = plan(trunk, tasks, batch, budget="1GiB")
    assert all(text.startswith("not checked: it would take") for text in found.exactness.values())


def test_a_target_that_is_nowhere_is_named() -> None:
    trunk, tasks = plain(), {**heads(), "c": Task(nn.Linear(8, 1), F.mse_loss, "tpyo")}
    batch = {"x": torch.randn(SAMPLES, 5, 4), "a": torch.randn(SAMPLES, 1), "b": torch.randn(SAMPLES, 1)}
    found = plan(trunk, tasks, batch, budget="1GiB")
    assert found.notes == (
        "no target in this batch: 'c'; the plan is for the others. A misspelt target looks the same",
    )


def test_a_batch_that_is_written_into_stays_as_it_was() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Linear(8, 8)

        def forward(self, batch: Any) -> Any:
            return self.layers(batch["x"].div_(255))

    batch = {"x": 255 * torch.rand(8, 8), "a": torch.randn(8, 1), "b": torch.randn(8, 1)}
    before = {name: value.clone() for name, value in batch.items()}
    found = plan(InPlace(), heads(), batch, budget="1GiB")
    assert all(torch.equal(batch[name], value) for name, value in before.items())
    for edition in [found.edition, *(schedule.edition for schedule in found.fallbacks)]:
        assert passes(edition, 2) == 1, edition


def test_samples_with_targets_are_looked_for() -> None:
    """Only the last samples have labels; the first pieces of the batch have none at all."""
    trunk, tasks = plain(), {"a": Task(nn.Linear(8, 1), _masked, "a", count=lambda batch: batch["a"].isfinite().sum())}
    targets = torch.full((SAMPLES, 1), float("nan"))
    targets[-6:-1] = 1.0
    found = plan(trunk, tasks, {"x": torch.randn(SAMPLES, 5, 4), "a": targets}, budget="1GiB")
    assert found.exactness["Accumulated(Split(), micro_batches=2)"].endswith(" from SummedLoss on 5 samples")
    assert set(found.left_out) == {"Offloaded"}


def _masked(out: Any, target: Any) -> Any:
    mask = target.isfinite()
    return ((out - target.nan_to_num()).square() * mask).sum() / mask.sum().clamp(min=1)


def test_kinds_cover_what_the_candidates_are_made_of() -> None:
    kinds = _exactness.basic_kinds(SAMPLES)
    assert set(kinds) == {"PerTask", "Cached", "trunk chunks", "head chunks", "Accumulated", "Checkpointed"}
    assert [pieces(edition, SAMPLES) for edition in kinds.values()] == [1, 1, 1, 2, 2, 2]
    assert kind(kinds["Cached"], SAMPLES) != kind(kinds["trunk chunks"], SAMPLES)
    assert set(_exactness.basic_kinds(1)) == {"PerTask", "Cached", "Checkpointed"}
