"""Network with any number of tasks on one data set of images, for measuring memory by the number of tasks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mtl_accum._validate import small_int
from mtl_accum.models._multi_task import MultiTaskModel, Task
from mtl_accum.models.zoo._convolutional import ConvClassifier, ConvTrunk, DenseHead

__all__ = ["Is", "many_tasks"]

_CLASSES = 10


class Is:
    """One-against-rest target: 1 for one class, 0 for all others; (N,) integers -> (N, 1).

    Args:
        key: Key of the classes in the batch.
        number: Class whose target is 1.
    """

    def __init__(self, key: str, number: int) -> None:
        self._key, self._number = key, number

    def __call__(self, batch: Any) -> Tensor:
        """Return the target of a batch."""
        same: Tensor = batch[self._key] == self._number
        return same.float().unsqueeze(1)


def many_tasks(num_tasks: int, width: int = 16, depth: int = 4, head_depth: int = 2) -> MultiTaskModel:
    """Build a convolutional trunk with one-against-rest classifiers and dense heads, alternating.

    Task 0 detects the digit 0, task 1 restores the clean image, task 2 detects the digit 1, and so on.

    Args:
        num_tasks: Number of heads.
        width: Number of channels of the trunk and of the representation, a multiple of 4.
        depth: Number of convolutions of the trunk.
        head_depth: Number of convolutions of each head.

    Raises:
        ValueError: A number is out of range.
    """
    small_int("num_tasks", num_tasks)
    tasks: dict[str, Task] = {}
    for number in range(num_tasks):
        if number % 2:
            tasks[f"clean {number}"] = Task(DenseHead(width, 1, head_depth), nn.MSELoss(), "clean")
        else:
            digit = number // 2 % _CLASSES
            head = ConvClassifier(width, 1, head_depth)
            tasks[f"is it a {digit} ({number})"] = Task(head, nn.BCEWithLogitsLoss(), Is("digit", digit))
    return MultiTaskModel(ConvTrunk(1, width, depth), tasks, "image")
