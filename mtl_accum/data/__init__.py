"""Real data sets. One has `train()` and `test()`, each an iterable of batches."""

from mtl_accum.data._digits import Digits

__all__ = ["Digits"]
