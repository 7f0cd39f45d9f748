"""The CUDA meter: on a device where there is one, by fakes of torch's counters elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mtl_accum.memory import CudaMeter, NvmlReading

DEVICE = torch.device("cuda", 0)


def test_says_why_it_is_not_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no CUDA device .*would say 0"), CudaMeter(DEVICE):
        pass


@pytest.mark.parametrize("retries", [0, 2])
def test_puts_the_allocators_counters_into_the_record(monkeypatch, retries):
    stats = iter(
        [
            {"allocated_bytes.all.current": 100, "num_alloc_retries": 1},
            {
                "allocated_bytes.all.current": 150,
                "allocated_bytes.all.peak": 900,
                "reserved_bytes.all.peak": 2048,
                "num_alloc_retries": 1 + retries,
            },
        ]
    )
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: next(stats))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    monkeypatch.setattr("mtl_accum.memory._cuda.read_nvml", lambda uuid: NvmlReading(5000, 7000, (uuid,)))
    with CudaMeter(DEVICE) as meter:
        pass
    result = meter.result()
    assert (result.base_bytes, result.peak_bytes, result.end_bytes) == (100, 900, 150)
    assert (result.reserved_bytes, result.process_bytes, result.device_bytes) == (2048, 5000, 7000)
    assert result.caveats[0] == "abc"
    assert len(result.caveats) == (2 if retries else 1)


@pytest.mark.cuda
def test_peak_on_a_device():
    torch.zeros(1, device=DEVICE)
    with CudaMeter(DEVICE) as meter:
        torch.zeros(64 << 20, dtype=torch.uint8, device=DEVICE)
    result = meter.result()
    assert result.peak_bytes - result.base_bytes == 64 << 20
    assert result.reserved_bytes >= 64 << 20
    assert result.device_bytes is None or result.device_bytes >= 64 << 20
