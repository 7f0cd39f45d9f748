"""Synthetic indoor scenes: images with segmentation, depth and surface normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from mtl_accum._scaled import scaled
from mtl_accum._validate import pair, positive_int, small_int

__all__ = ["Scenes"]

_NEAREST, _FARTHEST = 0.7, 10.0  # metres, the range of the camera behind NYUv2
# Direction of the light, one per colour channel, so shading shows the normal.
_LIGHTS = np.array([[0.8, 0.0, 0.6], [-0.4, 0.7, 0.6], [-0.4, -0.7, 0.6]])
_FOG = 10.0  # metres after which two thirds of the light are lost, so brightness shows the depth
_SHADING = 0.2  # share of the light that depends on the normal
_NOISE = 0.02  # standard deviation of the pixel noise


@final
@dataclass(frozen=True)
class Scenes:
    """Generator of scenes of overlapping planes, in the shapes and types of NYUv2 (Silberman et al., 2012).

    A sample: `image` (3, H, W), float32 from -1 to 1; `segmentation` (H, W), int64, -1 where unlabelled; `depth`
    (1, H, W), float32 in metres, 0 where unknown; `normals` (3, H, W), float32 unit vectors towards the
    camera, 0 where the depth is unknown. A pixel has the colour of its class, shaded by its normal and dimmed by its
    depth.

    Args:
        scale: Factor of height and width.
        size: Height and width at scale 1, in pixels.
        classes: Number of segmentation classes.
        planes: Number of planes in a scene.

    Raises:
        ValueError: An argument is out of range.
    """

    scale: float = 1.0
    size: Sequence[int] = (288, 384)
    classes: int = 13
    planes: int = 12

    def __post_init__(self) -> None:
        positive_int("classes", self.classes)
        small_int("planes", self.planes)
        pair("size", self.size)
        for side in self.size:
            scaled(side, self.scale)

    def __call__(self, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """Generate one sample."""
        height, width = (scaled(side, self.scale) for side in self.size)
        rows, columns = np.meshgrid(np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width), indexing="ij")
        labels = np.zeros((height, width), np.int64)
        depth = np.zeros((height, width))
        normals = np.zeros((3, height, width))
        everywhere = (slice(None), slice(None))
        for plane in range(self.planes):
            region = everywhere if plane == 0 else _rectangle(draw, height, width)
            down, right = draw.uniform(-2, 2, 2)  # metres across the image
            far = draw.uniform(2, 8)
            normal = np.array([right, down, 1.0]) / np.sqrt(1 + down**2 + right**2)
            labels[region] = draw.integers(self.classes)
            depth[region] = (far + down * rows + right * columns)[region]
            normals[:, region[0], region[1]] = normal[:, None, None]
        depth = depth.clip(_NEAREST, _FARTHEST)
        shading = 1 - _SHADING + _SHADING * np.tensordot(_LIGHTS, normals, 1)
        light = _colours(self.classes)[:, labels] * shading * np.exp(-depth / _FOG)
        image = 2 * light - 1 + draw.normal(0, _NOISE, light.shape)
        labels[_rectangle(draw, height, width)] = -1
        depth[_rectangle(draw, height, width)] = 0
        depth[draw.random((height, width)) < 0.05] = 0  # missing values, as on shiny and distant surfaces
        return {
            "image": image.astype(np.float32),
            "segmentation": labels,
            "depth": depth[None].astype(np.float32),
            "normals": (normals * (depth > 0)).astype(np.float32),
        }


def _colours(classes: int) -> np.ndarray:
    """Return one hue per class, (3, classes). Hues differ more between classes than by shading and depth."""
    hues = 2 * np.pi * (np.arange(classes) / classes - np.arange(3)[:, None] / 3)
    return np.asarray(0.6 + 0.4 * np.cos(hues))


def _rectangle(draw: np.random.Generator, height: int, width: int) -> tuple[slice, slice]:
    """Draw a rectangle of an image; each side is a sixteenth to a half of the image's."""
    sides = []
    for side in (height, width):
        extent = max(1, int(side * draw.uniform(1 / 16, 1 / 2)))
        start = int(draw.integers(side - extent + 1))
        sides.append(slice(start, start + extent))
    return sides[0], sides[1]
