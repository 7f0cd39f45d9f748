"""Convolutional trunk and dense heads for small images."""

from __future__ import annotations

from torch import Tensor, nn

from mtl_accum._validate import positive_int, probability, small_int, small_natural

__all__ = ["ConvBlock", "ConvClassifier", "ConvTrunk", "DenseHead"]


class ConvBlock(nn.Sequential):
    """3x3 convolution, normalisation, GELU; the size of the image stays.

    Args:
        inputs: channels in.
        outputs: channels out, a multiple of groups.
        groups: groups of the GroupNorm.
        norm: "group", or "batch" for BatchNorm, whose statistics are those of the samples that go through at once.

    Raises:
        ValueError: there is no such normalisation.
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 4, norm: str = "group") -> None:
        positive_int("channels", inputs)
        positive_int("width", outputs)
        if norm not in ("group", "batch"):
            raise ValueError(f"norm must be group or batch; found {norm!r}")
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(groups, outputs) if norm == "group" else nn.BatchNorm2d(outputs),
            nn.GELU(),
        )


class ConvTrunk(nn.Module):
    """A stem and residual convolution blocks at full resolution: (N, channels, H, W) -> (N, width, H, W).

    Args:
        channels: channels of the image.
        width: channels of the representation.
        depth: number of convolutions, the stem included.
        dropout: probability to drop a channel of the representation.
        norm: "group" or "batch"; see `ConvBlock`.

    Raises:
        ValueError: depth is less than 1, or there is no such normalisation.
    """

    def __init__(
        self, channels: int = 1, width: int = 32, depth: int = 6, dropout: float = 0.0, norm: str = "group"
    ) -> None:
        super().__init__()
        small_int("depth", depth)
        probability("dropout", dropout)
        self.stem = ConvBlock(channels, width, norm=norm)
        self.blocks = nn.ModuleList(ConvBlock(width, width, norm=norm) for _ in range(depth - 1))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, image: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, width, H, W)."""
        features: Tensor = self.stem(image)
        for block in self.blocks:
            features = features + block(features)
        dropped: Tensor = self.dropout(features)
        return dropped


class ConvClassifier(nn.Sequential):
    """Convolution blocks, average over the image, linear: (N, width, H, W) -> (N, classes).

    Args:
        width: channels of the representation.
        classes: number of classes.
        depth: number of convolutions.
    """

    def __init__(self, width: int, classes: int, depth: int = 6) -> None:
        small_natural("depth", depth)
        positive_int("classes", classes)
        super().__init__(
            *(ConvBlock(width, width) for _ in range(depth)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )


class DenseHead(nn.Sequential):
    """Convolution blocks and a last convolution: (N, width, H, W) -> (N, channels, H, W).

    Args:
        width: channels of the representation.
        channels: channels of the output map.
        depth: number of convolutions before the last one.
    """

    def __init__(self, width: int, channels: int = 1, depth: int = 6) -> None:
        small_natural("depth", depth)
        positive_int("channels", channels)
        super().__init__(
            *(ConvBlock(width, width) for _ in range(depth)),
            nn.Conv2d(width, channels, 3, padding=1),
        )
