"""Data sets and loaders. A data set has `train()` and `test()`, each an iterable of batches; maybe `validation()`."""

from mtl_accum.data._digits import Digits
from mtl_accum.data._generated import Generated
from mtl_accum.data._loader import Loader, WorkerError
from mtl_accum.data._mixed import MixedLoader
from mtl_accum.data._protocol import Data
from mtl_accum.data._scenes import Scenes
from mtl_accum.data._seeding import SampleError
from mtl_accum.data._texts import Sentences, Texts

__all__ = [
    "Data",
    "Digits",
    "Generated",
    "Loader",
    "MixedLoader",
    "SampleError",
    "Scenes",
    "Sentences",
    "Texts",
    "WorkerError",
]
