"""CUDA meter: on a real device if there is one, otherwise with fakes of torch's counters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtl_accum import Edition, Split, SummedLoss, compare, predict
from mtl_accum.editions import phase
from mtl_accum.memory import CudaMeter, NvmlReading, TrainingStep, device_in_use
from mtl_accum.testing import MODES, NETWORKS, OPTIMIZERS, many_heads

DEVICE = torch.device("cuda", 0)


class Allocator:
    """Fake of torch's counters: values set by tests, and peaks since the last reset."""

    def __init__(self, monkeypatch: Any, nvml: NvmlReading) -> None:
        self.now, self.peak, self.retries, self.ooms, self.reserved = 100, 100, 1, 0, 2048
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda *device: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: self.stats())
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
        self.asked: list[Any] = []
        monkeypatch.setattr("mtl_accum.memory._cuda.NvmlSampler", lambda uuid: Sampler(self.asked, uuid, nvml))
        monkeypatch.setattr("mtl_accum.memory._cuda.read_nvml", lambda uuid: nvml)

    def reset(self, device: torch.device) -> None:
        self.peak = self.now

    def stats(self) -> dict[str, int]:
        kinds = {
            f"{kind}_bytes.all.peak": self.peak + more
            for kind, more in (("allocated", 0), ("requested", -1), ("active", 2))
        }
        current = {"allocated_bytes.all.current": self.now, "reserved_bytes.all.current": self.reserved}
        troubles = {"num_alloc_retries": self.retries, "num_ooms": self.ooms}
        return {**kinds, **current, **troubles, "reserved_bytes.all.peak": self.reserved}

    def use(self, size: int) -> None:
        """Allocate and free."""
        self.peak = max(self.peak, self.now + size)


class Sampler:
    def __init__(self, asked: list[str], uuid: str, nvml: NvmlReading) -> None:
        asked.append(uuid)
        self.result = lambda: nvml

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: Any) -> None:
        return None


def test_the_reason_why_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no CUDA device .*would be 0"), CudaMeter(DEVICE):
        pass
    assert device_in_use(DEVICE) is None


def test_puts_the_allocators_counters_into_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch, NvmlReading(5000, 7000, ("mind",)))
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    with CudaMeter(DEVICE) as meter:
        allocator.use(800)
        allocator.now = 150
    result = meter.result()
    assert (result.base_bytes, result.peak_bytes, result.end_bytes) == (100, 900, 150)
    assert (result.requested_bytes, result.active_bytes, result.reserved_bytes) == (899, 902, 2048)
    assert (result.process_bytes, result.device_bytes, result.context_bytes) == (5000, 7000, 5000 - 2048)
    assert (result.categories, result.caveats) == (None, ("mind",))
    assert allocator.asked == ["abc"]


def test_phases_have_their_own_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch, NvmlReading(None, None))
    with CudaMeter(DEVICE) as meter:
        with phase("trunk", "forward"):
            allocator.use(500)
            allocator.now = 300
        with phase("head a", "forward"):
            allocator.use(50)
        with phase("optimizer", "optimizer"):
            allocator.use(200)
            allocator.now = 120
    result = meter.result()
    assert [(p.name, p.peak_bytes, p.end_bytes) for p in result.timeline] == [
        ("trunk", 600, 300),
        ("head a", 350, 300),
        ("optimizer", 500, 120),
    ]
    assert (result.peak_bytes, result.peak_phase) == (600, "trunk forward")


def test_troubles_and_settings_are_caveats(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch, NvmlReading(None, None))
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with CudaMeter(DEVICE) as meter:
        allocator.retries, allocator.ooms = 3, 1
    caveats = meter.result().caveats
    assert caveats[0].startswith("the allocator ran out 2 times")
    assert caveats[1].startswith("out of memory 1 times")
    assert caveats[2] == "allocator settings: PYTORCH_ALLOC_CONF=expandable_segments:True"


def test_the_device_replaces_the_process_with_a_caveat(monkeypatch: pytest.MonkeyPatch) -> None:
    Allocator(monkeypatch, NvmlReading(None, 7000, ("no list",)))
    with CudaMeter(DEVICE, before=3000) as meter:
        pass
    result = meter.result()
    assert (result.process_bytes, result.context_bytes) == (4000, 4000 - 2048)
    assert "difference of the device's used memory" in result.caveats[1]
    with CudaMeter(DEVICE) as meter:
        pass
    assert (meter.result().process_bytes, meter.result().context_bytes) == (None, None)


@pytest.mark.cuda
def test_peak_on_a_device() -> None:
    torch.zeros(1, device=DEVICE)
    with CudaMeter(DEVICE) as meter:
        torch.zeros(64 << 20, dtype=torch.uint8, device=DEVICE)
    result = meter.result()
    assert result.peak_bytes - result.base_bytes == 64 << 20
    assert result.reserved_bytes >= 64 << 20
    assert result.device_bytes is None or result.device_bytes >= 64 << 20


@pytest.mark.cuda
def test_compare_on_a_device() -> None:
    model, batch = many_heads()
    model.to(DEVICE)
    there = {name: tensor.to(DEVICE) for name, tensor in batch.items()}
    rows = compare(model.trunk, model.tasks, there, optimizer=torch.optim.AdamW(model.parameters()), steps=2)
    for row in rows:
        assert row.failure is None
        assert [record.source for record in row.memory] == ["cuda", "tensors"]
        assert row.memory[0].peak_bytes >= row.memory[1].peak_bytes > 0
        assert len(row.memory[0].timeline) == len(row.memory[1].timeline) > 3


@pytest.mark.cuda
@pytest.mark.parametrize("edition", [SummedLoss(), Split()], ids=["summed", "split"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_prediction_against_the_allocator(name: str, mode: str, optimizer: str, edition: Edition) -> None:
    """Within 10 %, cuBLAS's workspaces left out of both, as PyTorch's own tests of its MemTracker do."""
    sizes = {
        "convolutional": {"width": 64, "size": 64, "samples": 64},
        "transformer": {"width": 256, "length": 128, "samples": 64},
    }
    model, batch = NETWORKS[name](mode, **sizes.get(name, {"width": 512, "samples": 4096}))
    model.to(DEVICE)
    there = {key: tensor.to(DEVICE) for key, tensor in batch.items()}
    stepper = OPTIMIZERS[optimizer](model.parameters())
    predicted = predict(model.trunk, model.tasks, there, optimizer=stepper, edition=edition)
    step = TrainingStep(model.trunk, model.tasks, there, stepper, edition)
    for _ in range(2):
        step()
    with CudaMeter(DEVICE) as meter:
        step()
    workspaces = predicted.categories.workspaces
    measured, expected = meter.result().peak_bytes - workspaces, predicted.peak_bytes - workspaces
    off = f"{expected / measured - 1:+.1%}"
    print(f"{name} {mode} {optimizer} {edition}: predicted {expected}, allocated {measured}, {off}")
    assert expected == pytest.approx(measured, rel=0.1)
