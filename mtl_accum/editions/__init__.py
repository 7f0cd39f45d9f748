"""Editions: ways to compute the gradient of the summed loss, one file each."""

from mtl_accum.editions._accumulated import Accumulated
from mtl_accum.editions._as_loss import AsLoss
from mtl_accum.editions._cached import Cached
from mtl_accum.editions._checkpointed import Checkpointed
from mtl_accum.editions._cut import cut
from mtl_accum.editions._cutting import samples_of
from mtl_accum.editions._equal_gradients import require_equal_gradients
from mtl_accum.editions._fold import fold
from mtl_accum.editions._gradients import Gradients, Sum
from mtl_accum.editions._hidden_counts import note_call
from mtl_accum.editions._modules import modules_of
from mtl_accum.editions._offloaded import Offloaded
from mtl_accum.editions._over_batches import OverBatches
from mtl_accum.editions._parts import require_parts
from mtl_accum.editions._per_task import PerTask
from mtl_accum.editions._phase import phase
from mtl_accum.editions._pytree import Batched, PerSample
from mtl_accum.editions._pytree import leaves as tree_leaves
from mtl_accum.editions._random import RandomNumbers, same_random_numbers
from mtl_accum.editions._scale import backward_scale
from mtl_accum.editions._schedule import Schedule
from mtl_accum.editions._second_pass import ReplayError, always_comparing
from mtl_accum.editions._split import Split
from mtl_accum.editions._summed import SummedLoss
from mtl_accum.editions._types import Edition, Tasks, Trunk, require_edition, require_editions

__all__ = [
    "Accumulated",
    "AsLoss",
    "Batched",
    "Cached",
    "Checkpointed",
    "Edition",
    "Gradients",
    "Offloaded",
    "OverBatches",
    "PerSample",
    "PerTask",
    "RandomNumbers",
    "ReplayError",
    "Schedule",
    "Split",
    "Sum",
    "SummedLoss",
    "Tasks",
    "Trunk",
    "always_comparing",
    "backward_scale",
    "cut",
    "fold",
    "modules_of",
    "note_call",
    "phase",
    "require_edition",
    "require_editions",
    "require_equal_gradients",
    "require_parts",
    "same_random_numbers",
    "samples_of",
    "tree_leaves",
]
