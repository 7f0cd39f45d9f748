"""Budgets: what a person may write, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_accum.memory import _host_memory
from mtl_accum.planning import in_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GiB", 6 * 2**30),
        ("6 GB", 6 * 10**9),
        ("1.5MiB", 3 * 2**19),
        ("10kB", 10_000),
        ("10KiB", 10_240),
        ("2TB", 2 * 10**12),
        ("512B", 512),
        (4096, 4096),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert in_bytes(text, torch.device("cuda")).size == size  # no device is asked


@pytest.mark.parametrize("text", ["6", "6G", "six", "-1GiB", "0GiB", 0, -5, "", "%", "1e3MB", "GiB", "6GiB please"])
def test_anything_else_is_one_clear_line(text: int | str) -> None:
    with pytest.raises(
        ValueError, match="budget must be a size such as 6GiB or 6GB, a share such as 80%, or auto; found"
    ):
        in_bytes(text, CPU)


@pytest.mark.parametrize("thing", [None, True, 1.5, ["6GiB"]])
def test_other_types(thing: Any) -> None:
    with pytest.raises(TypeError, match="budget must be a number of bytes or text such as '6GiB', found"):
        in_bytes(thing, CPU)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine with 8 GiB of which 5 are available, and no control group."""
    monkeypatch.setattr(_host_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(_host_memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(f"MemTotal: {8 << 20} kB\nMemAvailable:    {5 << 20} kB\n")
    monkeypatch.setattr(
        _host_memory.os,  # type: ignore[attr-defined]
        "sysconf",
        {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**21, "SC_AVPHYS_PAGES": 1}.get,
    )
    return tmp_path


def test_shares_and_auto_ask_the_machine(machine: Any) -> None:
    assert in_bytes("50%", CPU).size == 4 * 2**30
    found = in_bytes("auto", CPU, held=2**30)
    assert found.size == 6 * 2**30 - round(0.6 * 2**30)
    assert found.words == "auto: 6.0 GiB free, less a reserve of 0.6 GiB for fragmentation and workspaces"
    with pytest.raises(ValueError, match="at most 100% of the device's memory, found '101%'"):
        in_bytes("101%", CPU)


def test_a_control_group_counts(machine: Any) -> None:
    (machine / "memory.max").write_text(f"{4 * 2**30}\n")
    (machine / "memory.current").write_text(f"{3 * 2**30}\n")
    assert in_bytes("25%", CPU).size == 2**30
    assert in_bytes("auto", CPU).size == 2**30 - (256 << 20)
    (machine / "memory.max").write_text("max\n")
    assert in_bytes("25%", CPU).size == 2 * 2**30


def test_a_system_without_meminfo(machine: Any) -> None:
    (machine / "meminfo").unlink()
    assert in_bytes("auto", CPU).size == 0  # a page, less the reserve


def test_a_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * 2**30)
    device = torch.device("cuda", 0)
    assert in_bytes("50%", device).size == 12 * 2**30
    assert in_bytes("auto", device, held=2**40).size == 12 * 2**30 - round(1.2 * 2**30)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="budget=auto: needs the memory of cuda, which was not found here; give"):
        in_bytes("auto", torch.device("cuda"))
