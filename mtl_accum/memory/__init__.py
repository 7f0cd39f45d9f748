"""Memory: how it is measured, one meter a file, and how it is predicted."""

from mtl_accum.memory._cuda import CudaMeter
from mtl_accum.memory._malloc import keep_freed_memory
from mtl_accum.memory._nvml import NvmlReading, NvmlSampler, driver_version, read_nvml
from mtl_accum.memory._predict import predict
from mtl_accum.memory._process import ProcessMeter, process_peak
from mtl_accum.memory._record import Breakdown, Meter, PeakMemory, PhaseMemory
from mtl_accum.memory._rehearsal import PredictionError
from mtl_accum.memory._snapshot import write_snapshot
from mtl_accum.memory._tensors import TensorMeter

__all__ = [
    "Breakdown",
    "CudaMeter",
    "Meter",
    "NvmlReading",
    "NvmlSampler",
    "PeakMemory",
    "PhaseMemory",
    "PredictionError",
    "ProcessMeter",
    "TensorMeter",
    "driver_version",
    "keep_freed_memory",
    "predict",
    "process_peak",
    "read_nvml",
    "write_snapshot",
]
