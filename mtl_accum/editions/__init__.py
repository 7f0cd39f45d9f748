"""Editions, also called backward schedules: ways to compute the gradient of the summed loss, one file each."""

from mtl_accum.editions._accumulated import Accumulated
from mtl_accum.editions._as_loss import AsLoss
from mtl_accum.editions._cached import Cached
from mtl_accum.editions._checkpointed import Checkpointed
from mtl_accum.editions._cut import cut
from mtl_accum.editions._engine import (
    Batched,
    Edition,
    EditionLike,
    Gradients,
    PerSample,
    ReplayError,
    Schedule,
    Sum,
    Tasks,
    Trunk,
    always_comparing,
    backward_scale,
    modules_of,
    note_call,
    phase,
    require_edition,
    require_editions,
    require_equal_gradients,
    require_parts,
    samples_of,
    tree_leaves,
)
from mtl_accum.editions._fold import fold
from mtl_accum.editions._in_backward import InBackward
from mtl_accum.editions._offloaded import TO_HOST, Offloaded
from mtl_accum.editions._over_batches import OverBatches
from mtl_accum.editions._per_task import PerTask
from mtl_accum.editions._split import Split
from mtl_accum.editions._summed import SummedLoss

__all__ = [
    "TO_HOST",
    "Accumulated",
    "AsLoss",
    "Batched",
    "Cached",
    "Checkpointed",
    "Edition",
    "EditionLike",
    "Gradients",
    "InBackward",
    "Offloaded",
    "OverBatches",
    "PerSample",
    "PerTask",
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
    "samples_of",
    "tree_leaves",
]
