"""The jobs of the command line, one file each; importing the package loads none, as `report` runs without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl_accum.jobs._check import check
    from mtl_accum.jobs._evaluate import evaluate_saved
    from mtl_accum.jobs._plan import Auto, plan
    from mtl_accum.jobs._predict import predict
    from mtl_accum.jobs._report import rebuild
    from mtl_accum.jobs._run import Run
    from mtl_accum.jobs._train import train

__all__ = ["Auto", "Run", "check", "evaluate_saved", "plan", "predict", "rebuild", "train"]

_HOMES = {
    "Auto": "_plan",
    "Run": "_run",
    "check": "_check",
    "evaluate_saved": "_evaluate",
    "plan": "_plan",
    "predict": "_predict",
    "rebuild": "_report",
    "train": "_train",
}


def __getattr__(name: str) -> Any:
    """Import a job on its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
