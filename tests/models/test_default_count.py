"""Default count: the number of samples, never the size of one sample, and never 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Edition, Split, SummedLoss, Task
from mtl_accum.models import default_count


def boxes(*counts: Any) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.rand(count, 4)} for count in counts]


X = torch.randn(5, 3)
TARGETS = {
    "a tensor": (torch.zeros(5, 7), 5),
    "tokens of all samples": (torch.zeros(20), 20),
    "a pair of tensors": ((torch.zeros(5), torch.zeros(5, 2)), 5),
    "a dict of tensors": ({"a": torch.zeros(5), "b": torch.zeros(5, 2)}, 5),
    "boxes, none in the first image": (boxes(0, 2, 3, 1, 1), 5),
    "boxes, none at all": (boxes(0, 0, 0, 0, 0), 5),
    "as many boxes in every image": (boxes(2, 2, 2, 2, 2), 5),
    "as many boxes as images": (boxes(5, 5, 5, 5, 5), 5),
    "captions": (["a", "b", "c", "d", "e"], 5),
    "selected rows of two targets": ([torch.zeros(3), torch.zeros(3)], 3),
    "a number": (0, 5),
    "a tensor without dimensions": (torch.tensor(0.0), 5),
    "a dict of ragged tensors": ({"boxes": torch.rand(9, 4), "image": torch.zeros(2)}, 5),
}


@pytest.mark.parametrize("case", TARGETS)
def test_of(case: str) -> None:
    target, samples = TARGETS[case]
    assert default_count(target, {"x": X}) == samples
    assert Task(nn.Linear(3, 1), lambda out, y: out.mean(), lambda b: target).presence({"x": X}) is True


def test_neither_target_nor_batch_determines_the_count() -> None:
    with pytest.raises(ValueError, match="the target is a int that does not determine .* give count="):
        default_count(0, {"x": torch.tensor(1.0)})


@pytest.mark.parametrize("edition", [SummedLoss(), Split(), Split(head_chunks=2), Accumulated(Split(), 3)], ids=repr)
@pytest.mark.parametrize("counts", [(0, 2, 3, 1, 1), (2, 0, 3, 5, 0), (0, 0, 0, 0, 0)], ids=str)
def test_images_without_boxes_train_all_the_same(counts: tuple[int, int, int, int, int], edition: Edition) -> None:
    torch.manual_seed(0)
    trunk, head = nn.Linear(3, 4).double(), nn.Linear(4, 4).double()
    batch = {"x": X.double(), "targets": boxes(*counts)}

    def loss(out: Tensor, targets: Any) -> Tensor:
        return torch.stack([(o.sum() - t["boxes"].sum()) ** 2 for o, t in zip(out, targets, strict=True)]).mean()

    loss(head(trunk(batch["x"])), batch["targets"]).backward()
    expected, head.weight.grad = head.weight.grad, None
    losses = edition.forward_backward(lambda b: trunk(b["x"]), {"det": Task(head, loss, "targets")}, batch)
    torch.testing.assert_close(head.weight.grad, expected, rtol=1e-12, atol=0)
    assert losses["det"] > 0
