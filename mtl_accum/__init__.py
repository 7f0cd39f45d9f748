"""Multi-task training in the memory of the largest single task, with the same gradient.

    from mtl_accum import Split

    losses = Split().forward_backward(trunk, tasks, batch)     # instead of sum(losses).backward()
    optimizer.step()

or, in a loop of your own:

    from mtl_accum import cut

    with cut(encoder(x)) as z:            # z: the representation as detached leaves
        for task_loss in task_losses:
            task_loss(z).backward()       # this head's graph dies here
"""

from typing import TYPE_CHECKING

from mtl_accum._lazy import lazy

if TYPE_CHECKING:
    from mtl_accum.editions import (
        Accumulated,
        AsLoss,
        Batched,
        Cached,
        Checkpointed,
        Edition,
        Offloaded,
        OverBatches,
        PerSample,
        PerTask,
        Split,
        SummedLoss,
        backward_scale,
        cut,
        fold,
        require_equal_gradients,
    )
    from mtl_accum.measure import compare
    from mtl_accum.models import (
        MultiTaskModel,
        Task,
        UncertaintyWeight,
        WithLoss,
        chunked,
        count_labels,
        count_mask,
        count_present,
        to_group_norm,
    )
    from mtl_accum.planning import plan
    from mtl_accum.prediction import predict
    from mtl_accum.verify import check

__all__ = [
    "Accumulated",
    "AsLoss",
    "Batched",
    "Cached",
    "Checkpointed",
    "Edition",
    "MultiTaskModel",
    "Offloaded",
    "OverBatches",
    "PerSample",
    "PerTask",
    "Split",
    "SummedLoss",
    "Task",
    "UncertaintyWeight",
    "WithLoss",
    "backward_scale",
    "check",
    "chunked",
    "compare",
    "count_labels",
    "count_mask",
    "count_present",
    "cut",
    "fold",
    "plan",
    "predict",
    "require_equal_gradients",
    "to_group_norm",
]

__version__ = "0.1.0"

_HOMES = {
    "Accumulated": "editions",
    "AsLoss": "editions",
    "Batched": "editions",
    "Cached": "editions",
    "Checkpointed": "editions",
    "Edition": "editions",
    "MultiTaskModel": "models",
    "Offloaded": "editions",
    "OverBatches": "editions",
    "PerSample": "editions",
    "PerTask": "editions",
    "Split": "editions",
    "SummedLoss": "editions",
    "Task": "models",
    "UncertaintyWeight": "models",
    "WithLoss": "models",
    "backward_scale": "editions",
    "check": "verify",
    "chunked": "models",
    "compare": "measure",
    "count_labels": "models",
    "count_mask": "models",
    "count_present": "models",
    "cut": "editions",
    "fold": "editions",
    "plan": "planning",
    "predict": "prediction",
    "require_equal_gradients": "editions",
    "to_group_norm": "models",
}


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
