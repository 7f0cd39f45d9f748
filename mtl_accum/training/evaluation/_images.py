"""Images for the report: input, output before and after training, target."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mtl_accum._state import same_random_numbers
from mtl_accum._validate import number, positive_int, text
from mtl_accum.data import Data
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.loop import to_device

__all__ = ["ImageRows", "Images", "before_and_after", "image_rows", "require_images"]

ImageRows = dict[str, str]  # rows of images as base64 PNG, by label


@dataclass(frozen=True)
class Images:
    """Images of the first test batch that a report shows, before and after training.

    Args:
        task: Name of the task whose head outputs images (N, C, H, W), with one channel or three.
        input: Key of the batch with the input images.
        target: Key of the batch with the target images.
        low: Value of black.
        high: Value of white.
        count: Number of images to show.

    Raises:
        ValueError: An argument is out of range.
    """

    task: str
    input: str
    target: str
    low: float = 0.0
    high: float = 1.0
    count: int = 10

    def __post_init__(self) -> None:
        positive_int("count", self.count)
        for name in ("task", "input", "target"):
            text(name, getattr(self, name))
        number("low", self.low)
        number("high", self.high)
        if not self.low < self.high:
            raise ValueError(f"low must be below high; found {self.low} and {self.high}")


@torch.no_grad()
def image_rows(
    model: MultiTaskModel, images: Mapping[str, Images], data: Data, label: str, *, device: torch.device
) -> dict[str, ImageRows]:
    """Render the rows of input, output and target of a network; random numbers are left unchanged.

    Args:
        model: Network, on the device; it is in evaluation mode afterwards.
        images: Images to render, by name.
        data: Data with the test batch.
        label: Label of the output, e.g. "before training".
        device: Device of the network.

    Returns:
        Rows by the images' names.

    Raises:
        ValueError: The batch lacks a key, or a tensor does not have the shape of images.
    """
    if not images:
        return {}
    model.eval()
    with same_random_numbers():
        batch = to_device(next(iter(data.test())), device)
        outputs = model(batch)
    rows: dict[str, ImageRows] = {}
    for name, each in images.items():
        tensors = {"input": batch.get(each.input), label: outputs[each.task], "target": batch.get(each.target)}
        rows[name] = {part: _png_row(f"images.{name}: {part}", tensor, each) for part, tensor in tensors.items()}
    return rows


def before_and_after(
    before: Mapping[str, ImageRows], after: Mapping[str, ImageRows]
) -> dict[str, list[dict[str, str]]]:
    """Merge the rows of `image_rows` before and after training, for a report.

    Args:
        before: Rows by the images' names.
        after: Rows of the same images later.

    Returns:
        By the images' names, a list of rows with "name" and "png".
    """
    merged: dict[str, list[dict[str, str]]] = {}
    for name, rows in after.items():
        both = {**before[name], **rows}
        both["target"] = both.pop("target")  # moves to the end
        merged[name] = [{"name": label, "png": png} for label, png in both.items()]
    return merged


def require_images(images: Mapping[str, Images], model: MultiTaskModel) -> None:
    """Raise ValueError if images name a task that the model does not have."""
    for name, each in images.items():
        if each.task not in model.tasks:
            raise ValueError(f"images.{name}.task must be one of {', '.join(model.tasks)}; found {each.task!r}")


def _png_row(name: str, tensor: Any, images: Images) -> str:
    """Return images side by side with a white line between them, as base64 PNG."""
    from PIL import Image

    if not isinstance(tensor, Tensor) or tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: expected a tensor (N, 1 or 3, H, W), found {shape}")
    tiles = ((tensor[: images.count].float() - images.low) / (images.high - images.low)).nan_to_num().clamp(0, 1)
    row = torch.cat(list(functional.pad(tiles, (0, 1), value=1.0)), dim=-1)[..., :-1]
    pixels = (255 * row).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
