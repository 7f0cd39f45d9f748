"""The machinery that every edition is built on. Internal: its names may change."""

from mtl_accum.editions._engine._around_trunk import around_trunk, run_trunk
from mtl_accum.editions._engine._eager import eager
from mtl_accum.editions._engine._edition import (
    Edition,
    EditionLike,
    OnlyForwardBackward,
    require_edition,
    require_editions,
)
from mtl_accum.editions._engine._forms import Attached, Form
from mtl_accum.editions._engine._leaves import Leaves
from mtl_accum.editions._engine._modules import is_compiled, modules_of, named_modules_of, share_modules, tensors_of
from mtl_accum.editions._engine._parts import require_parts, warn_of_ranks
from mtl_accum.editions._engine._phase import Kind, label, listen, phase
from mtl_accum.editions._engine._refuse import (
    refuse_batch_statistics,
    refuse_coupled_samples,
    refuse_hidden_modules,
    refuse_weights,
    uses_batch_statistics,
)
from mtl_accum.editions._engine._require_loss import require_loss
from mtl_accum.editions._engine._schedule import Schedule, run_inner
from mtl_accum.editions._engine._step import Step
from mtl_accum.editions._engine._types import Tasks, Trunk
from mtl_accum.editions._engine.batch._counts import read_counts
from mtl_accum.editions._engine.batch._hidden_counts import note_call
from mtl_accum.editions._engine.batch._inner_task import counted, couples_samples, facts, have_counts
from mtl_accum.editions._engine.batch._pieces import (
    Assembly,
    Piece,
    Range,
    cut_batch,
    equal_ranges,
    ranges,
    samples_of,
    take,
)
from mtl_accum.editions._engine.batch._pytree import Batched, PerSample, flatten, flatten_any, leaves, unflatten
from mtl_accum.editions._engine.batch._pytree import leaves as tree_leaves
from mtl_accum.editions._engine.batch._weighted_task import reduction_of
from mtl_accum.editions._engine.graph._autocast import without_autocast
from mtl_accum.editions._engine.graph._explain import explain, explain_derivative
from mtl_accum.editions._engine.graph._gradients import Gradients, Scale, Sum, attach, factor_of, wide, without_hooks
from mtl_accum.editions._engine.graph._own_graph import Behind, backpropagate, own_graph
from mtl_accum.editions._engine.graph._scale import backward_scale, expected_scale, expecting, set_aside, start_gradient
from mtl_accum.editions._engine.graph._versions import version_of
from mtl_accum.editions._engine.graph._walk import Beginning, Graph, walk
from mtl_accum.editions._engine.ranks._agreement import is_distributed
from mtl_accum.editions._engine.ranks._equal_gradients import require_equal_gradients
from mtl_accum.editions._engine.ranks._inside_fsdp import inside_forward
from mtl_accum.editions._engine.replay._replay import Replay
from mtl_accum.editions._engine.replay._rerun import rerun
from mtl_accum.editions._engine.replay._second_pass import ReplayError, Watch, always_comparing

__all__ = [
    "Assembly",
    "Attached",
    "Batched",
    "Beginning",
    "Behind",
    "Edition",
    "EditionLike",
    "Form",
    "Gradients",
    "Graph",
    "Kind",
    "Leaves",
    "OnlyForwardBackward",
    "PerSample",
    "Piece",
    "Range",
    "Replay",
    "ReplayError",
    "Scale",
    "Schedule",
    "Step",
    "Sum",
    "Tasks",
    "Trunk",
    "Watch",
    "always_comparing",
    "around_trunk",
    "attach",
    "backpropagate",
    "backward_scale",
    "counted",
    "couples_samples",
    "cut_batch",
    "eager",
    "equal_ranges",
    "expected_scale",
    "expecting",
    "explain",
    "explain_derivative",
    "factor_of",
    "facts",
    "flatten",
    "flatten_any",
    "have_counts",
    "inside_forward",
    "is_compiled",
    "is_distributed",
    "label",
    "leaves",
    "listen",
    "modules_of",
    "named_modules_of",
    "note_call",
    "own_graph",
    "phase",
    "ranges",
    "read_counts",
    "reduction_of",
    "refuse_batch_statistics",
    "refuse_coupled_samples",
    "refuse_hidden_modules",
    "refuse_weights",
    "require_edition",
    "require_editions",
    "require_equal_gradients",
    "require_loss",
    "require_parts",
    "rerun",
    "run_inner",
    "run_trunk",
    "samples_of",
    "set_aside",
    "share_modules",
    "start_gradient",
    "take",
    "tensors_of",
    "tree_leaves",
    "unflatten",
    "uses_batch_statistics",
    "version_of",
    "walk",
    "warn_of_ranks",
    "wide",
    "without_autocast",
    "without_hooks",
]
