"""Dense prediction from one image: semantic segmentation, depth and surface normals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum._scaled import scaled
from mtl_accum._validate import pair, positive_int, probability
from mtl_accum.models._count_functions import count_labels
from mtl_accum.models._masked import (
    MaskedLoss,
    absolute_error,
    cosine_distance,
    count_valid,
    has_direction,
    is_positive,
)
from mtl_accum.models._multi_task import MultiTaskModel, Task
from mtl_accum.models.zoo._resnet import ResNetTrunk, convolution

__all__ = ["ASPP", "DeepLabHead", "dense3"]

_RATES = (12, 24, 36)  # dilations at output stride 8


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (N, inputs, h, w) -> (N, outputs, h, w).

    Parallel convolutions with several dilations and an average over the image, combined by a 1x1 convolution.

    Reference: Chen, Papandreou, Schroff and Adam (2017), Rethinking Atrous Convolution for Semantic Image Segmentation.

    Args:
        inputs: Number of input channels.
        outputs: Number of channels of each branch and of the result.
        rates: Dilations of the 3x3 convolutions.
        dropout: Probability of dropping an entry of the result.
        norm: Normalisation, "batch", "group" or "frozen"; see `norm2d`.
    """

    def __init__(
        self, inputs: int, outputs: int = 256, rates: Sequence[int] = _RATES, dropout: float = 0.5, norm: str = "batch"
    ) -> None:
        super().__init__()
        branches = [convolution(inputs, outputs, 1, norm=norm)]
        branches += [convolution(inputs, outputs, 3, 1, rate, norm=norm) for rate in rates]
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *convolution(inputs, outputs, 1, norm=norm))
        joined = (len(branches) + 1) * outputs
        self.project = nn.Sequential(*convolution(joined, outputs, 1, norm=norm), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, inputs, h, w) to features (N, outputs, h, w)."""
        outputs = [branch(features) for branch in self.branches]
        outputs.append(self.pooled(features).expand_as(outputs[0]))
        projected: Tensor = self.project(torch.cat(outputs, 1))
        return projected


class DeepLabHead(nn.Module):
    """ASPP, a 3x3 and a 1x1 convolution, bilinear upsampling: (N, inputs, h, w) -> (N, outputs, H, W).

    The head of DeepLabv3 (Chen et al., 2017). Multi-task baselines use it for every dense task.

    Args:
        inputs: Number of channels of the representation.
        outputs: Number of channels of the output map.
        size: Height and width of the output map, in pixels.
        width: Number of channels inside the head.
        rates: Dilations of the ASPP.
        dropout: Probability of dropping an entry of the ASPP's output.
        norm: Normalisation, "batch", "group" or "frozen"; see `norm2d`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: Sequence[int],
        *,
        width: int = 256,
        rates: Sequence[int] = _RATES,
        dropout: float = 0.5,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self._size = list(size)
        self.layers = nn.Sequential(
            ASPP(inputs, width, rates, dropout, norm),
            *convolution(width, width, 3, norm=norm),
            nn.Conv2d(width, outputs, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, inputs, h, w) to an output map (N, outputs, H, W)."""
        return F.interpolate(self.layers(features), self._size, mode="bilinear", align_corners=False)


def dense3(
    scale: float = 1.0,
    *,
    size: Sequence[int] = (288, 384),
    classes: int = 13,
    width: int = 64,
    blocks: Sequence[int] = (3, 4, 6, 3),
    head_width: int = 256,
    dropout: float = 0.5,
    norm: str = "batch",
) -> MultiTaskModel:
    """Build a dilated ResNet-50 with three DeepLab heads, the usual multi-task network on NYUv2.

    The batch has `image` (N, 3, H, W); `segmentation` (N, H, W), int64, -1 where unlabelled; `depth` (N, 1, H, W) in
    metres, 0 where unknown; `normals` (N, 3, H, W), unit vectors, 0 where unknown. The losses are cross-entropy, L1 and
    cosine distance, each a mean over its own valid pixels.

    References: Liu, Johns and Davison (2019), End-to-End Multi-Task Learning with Attention (288x384, 13 classes, the
    losses); Vandenhende et al. (2021), Multi-Task Learning for Dense Prediction Tasks: A Survey (trunk and heads).

    Args:
        scale: Factor of height, width, channels and dilations of the heads; the number of layers does not change.
        size: Height and width of the image at scale 1, in pixels.
        classes: Number of segmentation classes; 13 or 40 on NYUv2.
        width: Number of channels of the stem at scale 1.
        blocks: Number of bottlenecks in each of the four stages.
        head_width: Number of channels inside a head at scale 1.
        dropout: Probability of dropping an entry of the ASPP's output.
        norm: Normalisation: "batch" as in the literature, "group" or "frozen". Editions that cut the batch into pieces
            refuse "batch".

    Raises:
        ValueError: A number is out of range, or there is no such normalisation.
    """
    pair("size", size)
    positive_int("classes", classes)
    probability("dropout", dropout)
    trunk = ResNetTrunk(scaled(width, scale, 4, name="width"), blocks, norm)
    pixels = [scaled(side, scale, name="size") for side in size]
    rates = [scaled(rate, scale) for rate in _RATES]
    inner = scaled(head_width, scale, 8, name="head_width")

    def head(outputs: int) -> DeepLabHead:
        return DeepLabHead(trunk.channels, outputs, pixels, width=inner, rates=rates, dropout=dropout, norm=norm)

    tasks = {
        "segmentation": Task(
            head(classes),
            nn.CrossEntropyLoss(ignore_index=-1),
            "segmentation",
            count=count_labels("segmentation", ignore_index=-1),
        ),
        "depth": Task(
            head(1), MaskedLoss(absolute_error, is_positive), "depth", count=count_valid("depth", is_positive)
        ),
        "normals": Task(
            head(3), MaskedLoss(cosine_distance, has_direction), "normals", count=count_valid("normals", has_direction)
        ),
    }
    return MultiTaskModel(trunk, tasks, "image")
