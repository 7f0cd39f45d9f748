"""Recognition of out-of-memory errors."""

from __future__ import annotations

import pytest
import torch

from mtl_accum.memory import _out_of_memory, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_by_type_and_message(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_errors_of_the_cpu() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert is_out_of_memory(raised.value)


GIB = 2**30


@pytest.mark.parametrize(
    ("free", "total", "expected"), [(GIB, 80 * GIB, True), (20 * GIB, 80 * GIB, False), (GIB, GIB, False)]
)
@pytest.mark.parametrize(
    ("message", "reading"),
    [
        ("could not create a primitive", "host_memory"),
        ("could not create a primitive descriptor for the convolution forward", "host_memory"),
        ("can't start new thread", "host_memory"),
        ("FIND was unable to find an engine to execute this computation", "_device_memory"),
        ("GET was unable to find an engine to execute this computation", "_device_memory"),
        ("Unable to find an engine to execute this computation", "_device_memory"),
        ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if", "_device_memory"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "_device_memory"),
    ],
)
def test_ambiguous_messages_count_only_if_little_memory_is_free(
    monkeypatch: pytest.MonkeyPatch, message: str, reading: str, free: int, total: int, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("host_memory", "_device_memory"):
        monkeypatch.setattr(_out_of_memory, name, lambda: (100 * GIB, 100 * GIB))
    monkeypatch.setattr(_out_of_memory, reading, lambda: (free, total))
    assert is_out_of_memory(RuntimeError(message)) is expected
    assert not is_out_of_memory(ValueError(message))


def test_memory_cached_by_the_allocator_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 70 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 30 * GIB)
    assert _out_of_memory._device_memory() == (41 * GIB, 80 * GIB)
