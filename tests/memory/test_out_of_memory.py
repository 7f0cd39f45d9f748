"""Which errors say that memory ran out."""

from __future__ import annotations

import pytest
import torch

from mtl_accum.memory._out_of_memory import is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_by_type_and_words(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_the_cpu_raises():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**50)
    assert is_out_of_memory(found.value)
