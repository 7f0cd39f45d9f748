"""Evaluation: metrics and images of the test data."""

from mtl_accum.training.evaluation._evaluate import EvalMetric, evaluate, require_tasks
from mtl_accum.training.evaluation._images import Images, before_and_after, image_rows, require_images
from mtl_accum.training.evaluation._masked_mean import MaskedMean

__all__ = [
    "EvalMetric",
    "Images",
    "MaskedMean",
    "before_and_after",
    "evaluate",
    "image_rows",
    "require_images",
    "require_tasks",
]
