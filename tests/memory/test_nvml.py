"""NVML readings, with fakes of its functions that use the library's own types and errors."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import pynvml
import pytest

from mtl_accum.memory import NvmlSampler, driver_version, read_nvml

UUID = "0f3a7c1e-0000-1111-2222-333344445555"
TOTAL, FREE, MINE = 80 * 2**30, 70 * 2**30, 9 * 2**30


def process(pid: int, used: int) -> Any:
    info = pynvml.c_nvmlProcessInfo_v3_t()
    info.pid = pid
    # pynvml itself turns NVML_VALUE_NOT_AVAILABLE into None
    friendly = pynvml.nvmlStructToFriendlyObject(info)
    friendly.usedGpuMemory = used
    return friendly


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Install a fake driver, and return its settings: requested UUIDs, running processes and more."""
    state = {
        "asked": [],
        "running": [process(os.getpid(), MINE)],
        "shutdowns": 0,
        "v2": True,
        "free": FREE,
        "known": ("GPU-", "MIG-"),
    }

    def handle(uuid: str) -> Any:
        state["asked"].append(uuid)  # type: ignore[attr-defined]
        if not uuid.startswith(state["known"]):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return object()

    def memory(handle: Any, version: int | None = None) -> Any:
        if version is not None and not state["v2"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        info = pynvml.c_nvmlMemory_v2_t() if version else pynvml.c_nvmlMemory_t()
        info.total, info.free, info.used = TOTAL, state["free"], 1  # `used` is what versions disagree about
        return info

    def running(handle: Any) -> list[Any] | None:
        if isinstance(state["running"], Exception):
            raise state["running"]
        return state["running"]  # type: ignore[return-value]

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: state.update(shutdowns=state["shutdowns"] + 1))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", running)
    return state


@pytest.mark.parametrize("version_two", [True, False])
def test_reads_process_and_device(library: dict[str, Any], version_two: bool) -> None:
    library["v2"] = version_two
    reading = read_nvml(UUID)
    assert (reading.process_bytes, reading.device_bytes, reading.caveats) == (MINE, TOTAL - FREE, ())
    assert library["asked"] == [f"GPU-{UUID}"]
    assert library["shutdowns"] == 1


@pytest.mark.parametrize("uuid", [f"GPU-{UUID}", f"MIG-{UUID}"])
def test_a_uuid_with_a_prefix_is_not_changed(library: dict[str, Any], uuid: str) -> None:
    read_nvml(uuid)
    assert library["asked"] == [uuid]


@pytest.mark.parametrize(
    ("running", "caveat"),
    [
        ([], "does not list this process"),
        ([process(1, 5)], r"other processes on the device: \[1\]"),
        ([process(os.getpid(), None)], "does not report process memory"),
        (
            pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION),
            "gives no list of processes: Insufficient Permissions",
        ),
    ],
)
def test_a_process_that_cannot_be_known_is_none_with_a_caveat(
    library: dict[str, Any], running: Exception | list[Any], caveat: str
) -> None:
    library["running"] = running
    reading = read_nvml(UUID)
    assert reading.process_bytes is None
    assert reading.device_bytes == TOTAL - FREE
    with pytest.raises(AssertionError, match=caveat):
        raise AssertionError(" ".join(reading.caveats))


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    reading = read_nvml(UUID)
    assert reading.device_bytes is None
    assert "NVML cannot be used: NVML Shared Library Not Found" in reading.caveats[0]


def test_driver_version(library: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "575.1")
    assert driver_version() == "575.1"
    assert library["shutdowns"] == 1
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert driver_version() is None


def test_unknown_device(library: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(uuid: str) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    assert f"NVML has no device {UUID}" in read_nvml(UUID).caveats[0]
    assert library["shutdowns"] == 1


def test_package_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_nvml(UUID).caveats == ("NVML: the package nvidia-ml-py is not installed",)


def test_a_slice_of_a_gpu_has_the_same_uuid(library: dict[str, Any]) -> None:
    """Torch gives the UUID of a MIG device without its prefix."""
    library["known"] = ("MIG-",)
    assert read_nvml(UUID).process_bytes == MINE
    assert library["asked"] == [f"GPU-{UUID}", f"MIG-{UUID}"]


def test_the_thread_records_changes_during_the_block(library: dict[str, Any]) -> None:
    """Memory outside torch's pool, another process, and a driver that once does not answer."""
    looked = threading.Event()
    original = pynvml.nvmlDeviceGetComputeRunningProcesses

    def running(handle: Any) -> list[Any] | None:
        looked.set()
        return original(handle)

    pynvml.nvmlDeviceGetComputeRunningProcesses, real = running, original
    try:
        with NvmlSampler(UUID, interval=0.001) as sampler:
            for change in (
                {"free": FREE - 2**30, "running": [process(os.getpid(), MINE + 5), process(77, 1)]},
                {"running": pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)},
                {"free": FREE, "running": [process(os.getpid(), MINE)]},
            ):
                library.update(change)
                looked.clear()
                assert looked.wait(10)
                looked.clear()
                assert looked.wait(10)  # a whole look with the change
    finally:
        pynvml.nvmlDeviceGetComputeRunningProcesses = real
    reading = sampler.result()
    assert (reading.process_bytes, reading.device_bytes) == (MINE + 5, TOTAL - FREE + 2**30)
    assert "other processes on the device: [77]" in reading.caveats[0]
    assert any("gives no list of processes" in caveat for caveat in reading.caveats)
    assert threading.active_count() == 1 or not any(t.name == "mtl_accum NVML" for t in threading.enumerate())
    assert library["shutdowns"] == 1


def test_the_device_may_refuse_its_memory_too(library: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(handle: Any, version: int | None = None) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    reading = read_nvml(UUID)
    assert (reading.process_bytes, reading.device_bytes) == (MINE, None)
    assert "does not report the device's memory: Not Supported" in reading.caveats[0]
