"""Networks: the multi-task wrapper, trunks and heads."""

from mtl_accum.models._chunked import chunked
from mtl_accum.models._convolutional import ConvBlock, ConvClassifier, ConvTrunk, DenseHead
from mtl_accum.models._count_functions import count_labels, count_mask, count_present
from mtl_accum.models._default_count import default_count
from mtl_accum.models._dense import ASPP, DeepLabHead, dense3
from mtl_accum.models._group_norm import to_group_norm
from mtl_accum.models._language import Ahead, LanguageHead, LanguageTask, lm_heads
from mtl_accum.models._many_tasks import many_tasks
from mtl_accum.models._masked import (
    Error,
    MaskedLoss,
    TokenCrossEntropy,
    Valid,
    absolute_error,
    angle,
    cosine_distance,
    count_valid,
    has_direction,
    hit,
    is_labelled,
    is_positive,
    is_present,
    masked_sum,
    squared_error,
)
from mtl_accum.models._multi_task import MultiTaskModel, Task
from mtl_accum.models._norm import FrozenBatchNorm2d
from mtl_accum.models._resnet import Bottleneck, ResNetTrunk
from mtl_accum.models._text8 import MaskedWordHead, SentenceHead, TokenHead, text8
from mtl_accum.models._transformer import TransformerBlock, TransformerTrunk
from mtl_accum.models._weight import UncertaintyWeight
from mtl_accum.models._with_loss import WithLoss

__all__ = [
    "ASPP",
    "Ahead",
    "Bottleneck",
    "ConvBlock",
    "ConvClassifier",
    "ConvTrunk",
    "DeepLabHead",
    "DenseHead",
    "Error",
    "FrozenBatchNorm2d",
    "LanguageHead",
    "LanguageTask",
    "MaskedLoss",
    "MaskedWordHead",
    "MultiTaskModel",
    "ResNetTrunk",
    "SentenceHead",
    "Task",
    "TokenCrossEntropy",
    "TokenHead",
    "TransformerBlock",
    "TransformerTrunk",
    "UncertaintyWeight",
    "Valid",
    "WithLoss",
    "absolute_error",
    "angle",
    "chunked",
    "cosine_distance",
    "count_labels",
    "count_mask",
    "count_present",
    "count_valid",
    "default_count",
    "dense3",
    "has_direction",
    "hit",
    "is_labelled",
    "is_positive",
    "is_present",
    "lm_heads",
    "many_tasks",
    "masked_sum",
    "squared_error",
    "text8",
    "to_group_norm",
]
