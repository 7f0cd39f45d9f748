"""The training loop and the jobs of the command line."""

from mtl_accum.training._check import check
from mtl_accum.training._evaluate import Measure, evaluate
from mtl_accum.training._experiment import Data, Run
from mtl_accum.training._fit import fit
from mtl_accum.training._images import Images
from mtl_accum.training._plan import Auto, plan
from mtl_accum.training._predict import predict
from mtl_accum.training._train import train
from mtl_accum.training._window import NoMemoryLeftError

__all__ = [
    "Auto",
    "Data",
    "Images",
    "Measure",
    "NoMemoryLeftError",
    "Run",
    "check",
    "evaluate",
    "fit",
    "plan",
    "predict",
    "train",
]
