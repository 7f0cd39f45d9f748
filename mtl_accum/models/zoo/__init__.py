"""Trunks, heads and complete multi-task networks from the literature."""

from mtl_accum.models.zoo._convolutional import ConvBlock, ConvClassifier, ConvTrunk, DenseHead
from mtl_accum.models.zoo._dense import ASPP, DeepLabHead, dense3
from mtl_accum.models.zoo._language import Ahead, LanguageHead, LanguageTask, lm_heads
from mtl_accum.models.zoo._many_tasks import many_tasks
from mtl_accum.models.zoo._norm import FrozenBatchNorm2d
from mtl_accum.models.zoo._resnet import Bottleneck, ResNetTrunk
from mtl_accum.models.zoo._text8 import MaskedWordHead, SentenceHead, TokenHead, text8
from mtl_accum.models.zoo._transformer import TransformerBlock, TransformerTrunk

__all__ = [
    "ASPP",
    "Ahead",
    "Bottleneck",
    "ConvBlock",
    "ConvClassifier",
    "ConvTrunk",
    "DeepLabHead",
    "DenseHead",
    "FrozenBatchNorm2d",
    "LanguageHead",
    "LanguageTask",
    "MaskedWordHead",
    "ResNetTrunk",
    "SentenceHead",
    "TokenHead",
    "TransformerBlock",
    "TransformerTrunk",
    "dense3",
    "lm_heads",
    "many_tasks",
    "text8",
]
