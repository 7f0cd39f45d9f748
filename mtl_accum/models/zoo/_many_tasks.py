"""As many tasks as one likes on one data set of images: memory against the number of tasks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mtl_accum._validate import small_int
from mtl_accum.models._multi_task import MultiTaskModel, Task
from mtl_accum.models.zoo._convolutional import ConvClassifier, ConvTrunk, DenseHead

__all__ = ["Is", "many_tasks"]

_CLASSES = 10


class Is:
    """A target: 1 where a class is that number, else 0; (N,) integers -> (N, 1).

    Args:
        key: of the batch, where the classes are.
        number: the class.
    """

    def __init__(self, key: str, number: int) -> None:
        self._key, self._number = key, number

    def __call__(self, batch: Any) -> Tensor:
        """The target of a batch."""
        same: Tensor = batch[self._key] == self._number
        return same.float().unsqueeze(1)


def many_tasks(num_tasks: int, width: int = 16, depth: int = 4, head_depth: int = 2) -> MultiTaskModel:
    """A convolutional trunk with so many heads, one-against-rest classifiers and dense ones in turns.

    Task 0 says whether the image shows a 0, task 1 restores the clean image, task 2 looks for a 1, and so on.

    Args:
        num_tasks: how many heads.
        width: channels of the trunk and of the representation, a multiple of 4.
        depth: convolutions of the trunk.
        head_depth: convolutions of each head.

    Raises:
        ValueError: a number is out of range.
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
