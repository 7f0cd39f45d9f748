"""Networks: the multi-task wrapper, trunks and heads."""

from mtl_accum.models._convolutional import ConvBlock, ConvClassifier, ConvTrunk, DenseHead
from mtl_accum.models._counts import count_labels, count_mask, count_present
from mtl_accum.models._group_norm import to_group_norm
from mtl_accum.models._many_tasks import many_tasks
from mtl_accum.models._multi_task import MultiTaskModel, Task

__all__ = [
    "ConvBlock",
    "ConvClassifier",
    "ConvTrunk",
    "DenseHead",
    "MultiTaskModel",
    "Task",
    "count_labels",
    "count_mask",
    "count_present",
    "many_tasks",
    "to_group_norm",
]
