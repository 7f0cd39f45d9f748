"""Memory meters for one training step, and models of the allocators behind them."""

from mtl_accum._renamed import renamed
from mtl_accum.memory._caching_allocator import BLOCK, CachingAllocator
from mtl_accum.memory._clock import wall_clock
from mtl_accum.memory._cuda import CudaMeter, device_in_use
from mtl_accum.memory._free_after_failure import free_after_failure
from mtl_accum.memory._host_memory import host_memory
from mtl_accum.memory._malloc import keep_freed_memory
from mtl_accum.memory._nvml import NvmlReading, NvmlSampler, driver_version, read_nvml
from mtl_accum.memory._out_of_memory import is_out_of_memory
from mtl_accum.memory._process import ProcessMeter, process_peak
from mtl_accum.memory._readings import Breakdown, Meter, PeakMemory, PhaseMemory
from mtl_accum.memory._snapshot import write_snapshot
from mtl_accum.memory._storages import Event
from mtl_accum.memory._tensors import TensorMeter
from mtl_accum.memory._training_step import Build, Parts, TrainingStep

__all__ = [
    "BLOCK",
    "Breakdown",
    "Build",
    "CachingAllocator",
    "CudaMeter",
    "Event",
    "Meter",
    "NvmlReading",
    "NvmlSampler",
    "Parts",
    "PeakMemory",
    "PhaseMemory",
    "ProcessMeter",
    "TensorMeter",
    "TrainingStep",
    "device_in_use",
    "driver_version",
    "free_after_failure",
    "host_memory",
    "is_out_of_memory",
    "keep_freed_memory",
    "process_peak",
    "read_nvml",
    "wall_clock",
    "write_snapshot",
]

__getattr__ = renamed(
    __name__,
    {
        "PredictionError": "mtl_accum.prediction.PredictionError",
        "predict": "mtl_accum.prediction.predict",
    },
)
