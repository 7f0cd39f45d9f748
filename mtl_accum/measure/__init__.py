"""Measurement of editions side by side: memory, time and gradient, each in a fresh process."""

from mtl_accum.measure._compare import Measurement, compare
from mtl_accum.measure._fresh_process import FreshProcess, MeasurementError, start_processes_with
from mtl_accum.measure._worker import MeasurementWorker

__all__ = [
    "FreshProcess",
    "Measurement",
    "MeasurementError",
    "MeasurementWorker",
    "compare",
    "start_processes_with",
]
