"""Jobs of the command line, one file each.

Importing the package loads none of them, because the `report` job runs without torch.
"""

from typing import TYPE_CHECKING

from mtl_accum._lazy import lazy

if TYPE_CHECKING:
    from mtl_accum.jobs._check import check
    from mtl_accum.jobs._comparison import Comparison
    from mtl_accum.jobs._evaluate import evaluate_saved
    from mtl_accum.jobs._evaluation import Evaluation
    from mtl_accum.jobs._experiment import Experiment
    from mtl_accum.jobs._fit import Recording
    from mtl_accum.jobs._plan import Auto, plan
    from mtl_accum.jobs._predict import predict
    from mtl_accum.jobs._report import rebuild
    from mtl_accum.jobs._run import Run
    from mtl_accum.jobs._train import train

__all__ = [
    "Auto",
    "Comparison",
    "Evaluation",
    "Experiment",
    "Recording",
    "Run",
    "check",
    "evaluate_saved",
    "plan",
    "predict",
    "rebuild",
    "train",
]

_HOMES = {
    "Auto": "_plan",
    "Comparison": "_comparison",
    "Evaluation": "_evaluation",
    "Experiment": "_experiment",
    "Recording": "_fit",
    "Run": "_run",
    "check": "_check",
    "evaluate_saved": "_evaluate",
    "plan": "_plan",
    "predict": "_predict",
    "rebuild": "_report",
    "train": "_train",
}


__getattr__ = lazy(__name__, _HOMES)
