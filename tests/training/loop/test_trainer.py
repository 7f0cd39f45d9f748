"""The loop: it learns, it reads losses late but names the right step, it finds missing targets early."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Edition, MultiTaskModel, PerTask, Split, SummedLoss, Task, count_labels
from mtl_accum.training.loop import Callback, TrainConfig, Training

CPU = torch.device("cpu")


def model(target: str = "y") -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = {"a": Task(nn.Linear(4, 1), nn.MSELoss(), "y"), "b": Task(nn.Linear(4, 1), nn.MSELoss(), target)}
    return MultiTaskModel(nn.Linear(3, 4), tasks, "x")


def batches(count: int = 13) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": (x := torch.randn(8, 3, generator=generator)), "y": x.sum(1, keepdim=True)} for _ in range(count)]


def train(
    net: MultiTaskModel,
    data: Any,
    edition: Edition | None = None,
    callbacks: list[Told] | tuple[()] = (),
    **changes: Any,
) -> dict[str, Any] | None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loop = TrainConfig(**{"epochs": 2, **changes})
    return Training(net, data, [edition or Split()], optimizer, loop, device=CPU, callbacks=callbacks).run()


class Told(Callback):
    def __init__(self) -> None:
        self.steps: list[Any] = []

    def on_step(self, run: Training) -> None:
        self.steps.append((run.position.step, len(run.losses.history["a"])))


def test_learns_and_tells_every_loss() -> None:
    told = Told()
    losses = train(model(), batches(), callbacks=[told])
    assert {name: len(history) for name, history in losses.items()} == {"a": 26, "b": 26}
    assert losses["a"][-1] < 0.3 * losses["a"][0]
    assert told.steps[-1] == (26, 20)
    assert all(read <= step for step, read in told.steps)


@pytest.mark.parametrize("edition", [PerTask(), Split()], ids=repr)
def test_every_edition_trains_the_same(edition: Edition) -> None:
    reference = train(model(), batches(), SummedLoss())
    assert train(model(), batches(), edition) == {n: pytest.approx(v, rel=1e-4) for n, v in reference.items()}


def test_nan_names_the_task_and_the_step() -> None:
    data = batches()
    data[4]["y"] = data[4]["y"] * math.nan
    with pytest.raises(FloatingPointError, match="task 'a': loss is nan at step 5; a lower learning rate"):
        train(model(), data)


def test_a_target_that_is_nowhere_is_found_before_the_first_step() -> None:
    net = model(target="typo")
    before = net.trunk.module.weight.clone()
    with pytest.raises(ValueError, match="task 'b': expected its target in the data, found batches of x, y; set model"):
        train(net, batches())
    assert torch.equal(net.trunk.module.weight, before)


def test_a_target_that_is_in_some_batches_is_enough() -> None:
    data = batches(3)
    data[2]["rare"] = data[2]["y"]
    losses = train(model(target="rare"), data, epochs=1)
    assert losses["b"][:2] == [0, 0]
    assert losses["b"][2] > 0


def test_an_iterator_has_one_epoch_only() -> None:
    with pytest.raises(ValueError, match="data: expected batches that can be iterated every epoch, found an iterator"):
        train(model(), iter(batches()))


def test_a_task_without_labels_in_the_first_batch() -> None:
    labels = Task(nn.Linear(4, 3), nn.CrossEntropyLoss(ignore_index=-100), "tag", count=count_labels("tag"))
    net = MultiTaskModel(nn.Linear(3, 4), {"a": Task(nn.Linear(4, 1), nn.MSELoss(), "y"), "b": labels}, "x")
    data = [{**batch, "tag": torch.full((8,), -100 if n < 2 else 1)} for n, batch in enumerate(batches(4))]
    losses = train(net, data, epochs=1)
    assert losses["b"][:2] == [0, 0]
    assert losses["b"][2] > 0
    everywhere = [{**batch, "tag": torch.full((8,), -100)} for batch in data]
    for batch in everywhere:
        del batch["y"]
    del net.tasks._modules[net.tasks._keys.pop("a")]
    assert train(net, everywhere, epochs=1, precision="fp16")["b"] == [0.0] * 4


def test_no_epochs() -> None:
    assert train(model(), batches(), epochs=0) == {"a": [], "b": []}
