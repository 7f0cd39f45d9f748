"""Editions: ways to compute the gradient of the summed loss, one file each."""

from mtl_accum.editions._accumulated import Accumulated
from mtl_accum.editions._cached import Cached
from mtl_accum.editions._checkpointed import Checkpointed
from mtl_accum.editions._cut import cut
from mtl_accum.editions._offloaded import Offloaded
from mtl_accum.editions._per_task import PerTask
from mtl_accum.editions._phase import phase
from mtl_accum.editions._scale import backward_scale
from mtl_accum.editions._split import Split
from mtl_accum.editions._summed import SummedLoss
from mtl_accum.editions._types import Edition, Tasks, Trunk

__all__ = [
    "Accumulated",
    "Cached",
    "Checkpointed",
    "Edition",
    "Offloaded",
    "PerTask",
    "Split",
    "SummedLoss",
    "Tasks",
    "Trunk",
    "backward_scale",
    "cut",
    "phase",
]
