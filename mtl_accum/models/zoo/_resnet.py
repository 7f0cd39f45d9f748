"""A dilated residual network: the trunk of dense prediction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtl_accum._validate import positive_int, small_int
from mtl_accum.models.zoo._norm import norm2d

__all__ = ["Bottleneck", "ResNetTrunk", "convolution"]

_EXPANSION = 4
_STRIDES, _DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)  # of the four stages: output stride 8


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut: (N, inputs, H, W) -> (N, 4 width, H / stride, W / stride).

    Args:
        inputs: channels in.
        width: channels of the 3x3 convolution.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
        norm: "batch", "group" or "frozen"; see `norm2d`.
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
        """(N, inputs, H, W) -> (N, 4 width, H / stride, W / stride)."""
        inner: Tensor = self.layers(features)
        found: Tensor = self.relu(inner.add_(self.shortcut(features)))
        return found


class ResNetTrunk(nn.Module):
    """A ResNet without its classifier, dilated in its last two stages: (N, 3, H, W) -> (N, 32 width, H / 8, W / 8).

    As it stands a ResNet-50 (He et al., 2016, Deep Residual Learning for Image Recognition) with output stride 8
    (Yu et al., 2017, Dilated Residual Networks; Chen et al., 2017, Rethinking Atrous Convolution): 2048 channels.
    Sizes that 8 does not divide are rounded up.

    Args:
        width: channels of the stem.
        blocks: bottlenecks of the four stages.
        norm: "batch", "group" or "frozen"; see `norm2d`. Editions in pieces refuse "batch".

    Attributes:
        channels: of the representation.

    Raises:
        ValueError: a number is out of range, or there is no such normalisation.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3), norm: str = "batch") -> None:
        super().__init__()
        positive_int("width", width)
        if not isinstance(blocks, list | tuple) or len(blocks) != len(_STRIDES):
            raise ValueError(f"blocks must be four numbers, one a stage; found {blocks!r:.200}")
        self.stem = nn.Sequential(*convolution(3, width, 7, 2, norm=norm), nn.MaxPool2d(3, 2, 1))
        found, inputs, before = [], width, 1
        for stage, (number, stride, dilation) in enumerate(zip(blocks, _STRIDES, _DILATIONS, strict=True)):
            small_int("blocks", number)
            for block in range(number):
                first = block == 0
                found.append(
                    Bottleneck(inputs, width << stage, stride if first else 1, before if first else dilation, norm)
                )
                inputs = _EXPANSION * (width << stage)
            before = dilation
        self.blocks = nn.Sequential(*found)
        self.channels = inputs

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 32 width, H / 8, W / 8)."""
        features: Tensor = self.blocks(self.stem(image))
        return features


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, *, norm: str
) -> list[nn.Module]:
    """Convolution that keeps the size of the image but for its stride, normalisation, ReLU."""
    padding = dilation * (size // 2)
    made = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return [made, norm2d(norm, outputs), nn.ReLU(inplace=True)]
