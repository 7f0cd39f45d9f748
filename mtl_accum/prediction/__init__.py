"""Memory prediction without the device: a training step on tensors without data."""

from mtl_accum.prediction._dry_run import DryRun
from mtl_accum.prediction._errors import PredictionError
from mtl_accum.prediction._predict import cpu_or_cuda, predict, predicted, workspaces

__all__ = ["DryRun", "PredictionError", "cpu_or_cuda", "predict", "predicted", "workspaces"]
