"""Memory: how it is measured, one meter a file."""

from mtl_accum.memory._cuda import CudaMeter
from mtl_accum.memory._malloc import keep_freed_memory
from mtl_accum.memory._nvml import NvmlReading, read_nvml
from mtl_accum.memory._process import ProcessMeter
from mtl_accum.memory._record import PeakMemory
from mtl_accum.memory._tensors import TensorMeter

__all__ = [
    "CudaMeter",
    "NvmlReading",
    "PeakMemory",
    "ProcessMeter",
    "TensorMeter",
    "keep_freed_memory",
    "read_nvml",
]
