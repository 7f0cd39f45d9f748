"""Data sets and loaders. A data set has `train()` and `test()`, each an iterable of batches; perhaps `validation()`."""

from mtl_accum.data._digits import Digits
from mtl_accum.data._loader import Loader, SampleError, WorkerError
from mtl_accum.data._mixed import MixedLoader

__all__ = ["Digits", "Loader", "MixedLoader", "SampleError", "WorkerError"]
