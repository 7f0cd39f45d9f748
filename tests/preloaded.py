"""Imports of the fork server that the tests share, whose processes take warnings for errors; see `tests.processes`."""

import sys
import warnings
from importlib import import_module

warnings.simplefilter("error")
sys.warnoptions.append("error")  # for an interpreter that a process starts

for name in (
    *("torch._dynamo", "torch.utils.tensorboard", "torchmetrics.classification", "torchmetrics.image"),
    *("matplotlib.pyplot", "sklearn.datasets", "sklearn.model_selection", "hydra", "pytest"),
    *("mtl_accum.data", "mtl_accum.jobs._train", "mtl_accum.models", "mtl_accum.training", "tests.cli.command"),
):
    import_module(name)
