"""Dilated residual network, the trunk of dense prediction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtl_accum._validate import positive_int, small_int
from mtl_accum.models.zoo._norm import norm2d

__all__ = ["Bottleneck", "ResNetTrunk", "convolution"]

_EXPANSION = 4
_STRIDES, _DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)  # of the four stages: output stride 8


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut: (N, inputs, H, W) -> (N, 4 width, H / stride, W / stride).

    Args:
        inputs: Number of input channels.
        width: Number of channels of the 3x3 convolution.
        stride: Stride of the 3x3 convolution.
        dilation: Dilation of the 3x3 convolution.
        norm: Normalisation, "batch", "group" or "frozen"; see `norm2d`.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1, norm: str = "batch") -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.layers = nn.Sequential(
            *convolution(inputs, width, 1, norm=norm),
            *convolution(width, width, 3, stride, dilation, norm=norm),
            *convolution(width, outputs, 1, norm=norm)[:-1],  # the ReLU comes after the sum
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(*([] if same else convolution(inputs, outputs, 1, stride, norm=norm)[:-1]))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, inputs, H, W) to features (N, 4 width, H / stride, W / stride)."""
        inner: Tensor = self.layers(features)
        outputs: Tensor = self.relu(inner.add_(self.shortcut(features)))
        return outputs


class ResNetTrunk(nn.Module):
    """ResNet without its classifier, dilated in its last two stages: (N, 3, H, W) -> (N, 32 width, H / 8, W / 8).

    By default a ResNet-50 (He et al., 2016, Deep Residual Learning for Image Recognition) with output stride 8
    (Yu et al., 2017, Dilated Residual Networks; Chen et al., 2017, Rethinking Atrous Convolution): 2048 channels.
    Sizes that are not multiples of 8 are rounded up.

    Args:
        width: Number of channels of the stem.
        blocks: Number of bottlenecks in each of the four stages.
        norm: Normalisation, "batch", "group" or "frozen"; see `norm2d`. Editions that cut the batch into pieces refuse
            "batch".

    Attributes:
        channels: Number of channels of the representation.

    Raises:
        ValueError: A number is out of range, or there is no such normalisation.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3), norm: str = "batch") -> None:
        super().__init__()
        positive_int("width", width)
        if not isinstance(blocks, list | tuple) or len(blocks) != len(_STRIDES):
            raise ValueError(f"blocks must be four numbers, one a stage; found {blocks!r:.200}")
        self.stem = nn.Sequential(*convolution(3, width, 7, 2, norm=norm), nn.MaxPool2d(3, 2, 1))
        layers, inputs, previous_dilation = [], width, 1
        for stage, (number, stride, dilation) in enumerate(zip(blocks, _STRIDES, _DILATIONS, strict=True)):
            small_int("blocks", number)
            inner = width << stage
            for block in range(number):
                if block == 0:
                    layers.append(Bottleneck(inputs, inner, stride, previous_dilation, norm))
                else:
                    layers.append(Bottleneck(inputs, inner, 1, dilation, norm))
                inputs = _EXPANSION * inner
            previous_dilation = dilation
        self.blocks = nn.Sequential(*layers)
        self.channels = inputs

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to features (N, 32 width, H / 8, W / 8)."""
        features: Tensor = self.blocks(self.stem(image))
        return features


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, *, norm: str
) -> list[nn.Module]:
    """Build a convolution that pads to keep the image size (up to its stride), normalisation and ReLU."""
    padding = dilation * (size // 2)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return [layer, norm2d(norm, outputs), nn.ReLU(inplace=True)]
