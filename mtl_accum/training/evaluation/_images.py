"""Images for the report: what goes in, what the network makes of it before and after training, what it should make."""

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

ImageRows = dict[str, str]  # by what they show: a row of images as PNG, in base64


@dataclass(frozen=True)
class Images:
    """Images of the test data that a report shows, before and after training.

    Args:
        task: whose head makes images (N, C, H, W), with one channel or three.
        input: a key of the batch: what the images were made from.
        target: a key of the batch: what they should be.
        low: the value that is black.
        high: the value that is white.
        count: how many of the first test batch.

    Raises:
        ValueError: an argument is out of range.
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
    model: MultiTaskModel, images: Mapping[str, Images], data: Data, when: str, *, device: torch.device
) -> dict[str, ImageRows]:
    """The images as they are now: by name, input, output and target; random numbers stay where they are.

    Args:
        model: on the device; is in evaluation mode afterwards.
        images: which ones, by name.
        data: whose first test batch counts.
        when: what the output is called: "before training".
        device: the model's.

    Raises:
        ValueError: the batch has no such key, or what should be images is none.
    """
    if not images:
        return {}
    model.eval()
    with same_random_numbers():
        batch = to_device(next(iter(data.test())), device)
        outputs = model(batch)
    found: dict[str, ImageRows] = {}
    for name, wanted in images.items():
        shown = {"input": batch.get(wanted.input), when: outputs[wanted.task], "target": batch.get(wanted.target)}
        found[name] = {label: _strip(f"images.{name}: {label}", tensor, wanted) for label, tensor in shown.items()}
    return found


def before_and_after(
    before: Mapping[str, ImageRows], after: Mapping[str, ImageRows]
) -> dict[str, list[dict[str, str]]]:
    """What `image_rows` made of the same images at two times, as a report holds it."""
    found: dict[str, list[dict[str, str]]] = {}
    for name, shown in after.items():
        both = {**before[name], **shown}
        both["target"] = both.pop("target")  # the last
        found[name] = [{"name": label, "png": png} for label, png in both.items()]
    return found


def require_images(images: Mapping[str, Images], model: MultiTaskModel) -> None:
    """Raise ValueError if images name a task that the model does not have."""
    for name, wanted in images.items():
        if wanted.task not in model.tasks:
            raise ValueError(f"images.{name}.task must be one of {', '.join(model.tasks)}; found {wanted.task!r}")


def _strip(label: str, tensor: Any, wanted: Images) -> str:
    """Images side by side with a white line between them."""
    from PIL import Image

    if not isinstance(tensor, Tensor) or tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{label}: expected a tensor (N, 1 or 3, H, W), found {shape}")
    tiles = ((tensor[: wanted.count].float() - wanted.low) / (wanted.high - wanted.low)).nan_to_num().clamp(0, 1)
    row = torch.cat(list(functional.pad(tiles, (0, 1), value=1.0)), dim=-1)[..., :-1]
    pixels = (255 * row).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
