"""Images in the report: what they show, and what is said where there is nothing to show."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mtl_accum import MultiTaskModel, Task
from mtl_accum.training.evaluation import Images, before_and_after, image_rows, require_images

CPU = torch.device("cpu")


class Data:
    """Four images, and random numbers taken from torch's generator as a loader would."""

    def __init__(self, channels: int = 1) -> None:
        self.batch = {"x": torch.rand(4, channels, 3, 5), "y": torch.rand(4, channels, 3, 5), "n": torch.ones(4)}

    def train(self) -> Any:
        return self.test()

    def test(self) -> list[dict[str, Tensor]]:
        torch.rand(1)
        return [self.batch]


def network(channels: int = 1) -> MultiTaskModel:
    tasks = {
        "dense": Task(nn.Conv2d(channels, channels, 1), nn.MSELoss(), "y"),
        "flat": Task(nn.Sequential(nn.Flatten(), nn.LazyLinear(1)), nn.MSELoss(), "n"),
    }
    return MultiTaskModel(nn.Sequential(nn.Dropout(0.5)), tasks, inputs="x")


def pixels(png: str) -> Tensor:
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_input_output_and_target_side_by_side(channels: int) -> None:
    torch.manual_seed(0)
    model, data = network(channels), Data(channels)
    wanted = {"restored": Images(task="dense", input="x", target="y", low=-1.0, high=1.0, count=3)}
    before = image_rows(model, wanted, data, "before training", device=CPU)
    state = torch.get_rng_state()
    nn.init.zeros_(model.tasks["dense"].head.weight)
    nn.init.ones_(model.tasks["dense"].head.bias)
    after = image_rows(model, wanted, data, "after training", device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    [rows] = before_and_after(before, after).values()
    shown = {row["name"]: pixels(row["png"]) for row in rows}
    assert list(shown) == ["input", "before training", "after training", "target"]
    assert all(strip.shape == (3, 3 * 5 + 2, channels) for strip in shown.values())
    assert (shown["input"][:, [5, 11]] == 255).all(), "a white line between images"
    second = (255 * (data.batch["x"][1] + 1) / 2).round().permute(1, 2, 0)
    assert torch.equal(shown["input"][:, 6:11].float(), second)
    assert (shown["after training"] == 255).all()
    assert not torch.equal(shown["before training"], shown["after training"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "flat"}, r"images.a: before training: expected a tensor \(N, 1 or 3, H, W\), found \(4, 1\)"),
        ({"input": "z"}, r"images.a: input: expected a tensor \(N, 1 or 3, H, W\), found NoneType"),
    ],
)
def test_what_is_no_image(changes: dict[str, str], message: str) -> None:
    images = {"a": Images(**{"task": "dense", "input": "x", "target": "y", **changes})}
    with pytest.raises(ValueError, match=message):
        image_rows(network(), images, Data(), "before training", device=CPU)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"images.a.task must be one of dense, flat; found 'none'"):
        require_images({"a": Images("none", "x", "y")}, network())
    with pytest.raises(ValueError, match="low must be below high; found 1.0 and 1.0"):
        Images("dense", "x", "y", low=1.0)
    with pytest.raises(ValueError, match="count"):
        Images("dense", "x", "y", count=0)
