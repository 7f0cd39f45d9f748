"""Convolutional trunk and dense heads for small images."""

from __future__ import annotations

from torch import Tensor, nn

from mtl_accum._validate import positive_int, probability, small_int, small_natural

__all__ = ["ConvBlock", "ConvClassifier", "ConvTrunk", "DenseHead"]


class ConvBlock(nn.Sequential):
    """3x3 convolution, normalisation and GELU, at the same image size.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels, a multiple of `groups`.
        groups: Number of groups of the GroupNorm.
        norm: "group" for GroupNorm, or "batch" for BatchNorm, whose statistics are those of the samples in one pass.

    Raises:
        ValueError: A number is out of range, or norm is neither "group" nor "batch".
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
    """Stem and residual convolution blocks at full resolution: (N, channels, H, W) -> (N, width, H, W).

    Args:
        channels: Number of channels of the image.
        width: Number of channels of the representation.
        depth: Number of convolutions, including the stem.
        dropout: Probability of dropping a channel of the representation.
        norm: Normalisation, "group" or "batch"; see `ConvBlock`.

    Raises:
        ValueError: A number is out of range, or norm is neither "group" nor "batch".
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
        """Map images (N, channels, H, W) to features (N, width, H, W)."""
        features: Tensor = self.stem(image)
        for block in self.blocks:
            features = features + block(features)
        dropped: Tensor = self.dropout(features)
        return dropped


class ConvClassifier(nn.Sequential):
    """Convolution blocks, average over the image and linear layer: (N, width, H, W) -> (N, classes).

    Args:
        width: Number of channels of the representation.
        classes: Number of classes.
        depth: Number of convolutions.

    Raises:
        ValueError: A number is out of range.
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
    """Convolution blocks and a final convolution: (N, width, H, W) -> (N, channels, H, W).

    Args:
        width: Number of channels of the representation.
        channels: Number of channels of the output map.
        depth: Number of convolutions before the last one.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, width: int, channels: int = 1, depth: int = 6) -> None:
        small_natural("depth", depth)
        positive_int("channels", channels)
        super().__init__(
            *(ConvBlock(width, width) for _ in range(depth)),
            nn.Conv2d(width, channels, 3, padding=1),
        )
