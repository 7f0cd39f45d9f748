"""Networks: the multi-task wrapper, trunks and heads."""

from mtl_accum.models._convolutional import ConvBlock, ConvClassifier, ConvTrunk, DenseHead
from mtl_accum.models._multi_task import MultiTaskModel, Task

__all__ = ["ConvBlock", "ConvClassifier", "ConvTrunk", "DenseHead", "MultiTaskModel", "Task"]
