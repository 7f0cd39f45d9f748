"""What editions announce, and to whom."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_accum import Accumulated, Cached, Edition, PerTask, Split, SummedLoss, cut
from mtl_accum.editions import phase
from mtl_accum.editions._engine import label, listen
from mtl_accum.editions._engine._phase import has_listeners
from mtl_accum.testing import vector


class Log:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def begin(self, name: str, kind: str) -> None:
        self.said.append(label(name, kind))

    def end(self) -> None:
        self.said.append("end")


TRUNK, BACK = "trunk forward", "trunk backward"
HEADS = [f"head t{n} {kind}" for n in range(3) for kind in ("forward", "backward")]
FORWARDS = [f"head t{n} forward" for n in range(3)]
PER_TASK = [part for n in range(3) for part in (TRUNK, f"head t{n} forward", f"head t{n} and trunk backward")]


@pytest.mark.parametrize(
    ("edition", "expected"),
    [
        (SummedLoss(), [TRUNK, *FORWARDS, "3 heads and trunk backward"]),
        (PerTask(), PER_TASK),
        (Split(), [TRUNK, *HEADS, BACK]),
        (Split(heads_per_graph=3), [TRUNK, *FORWARDS, "3 heads backward", BACK]),
        (Cached(chunk_size=4), [TRUNK, TRUNK, *HEADS, TRUNK, BACK, TRUNK, BACK]),
        (Accumulated(Split(), micro_batches=2), [TRUNK, *HEADS, BACK] * 2),
    ],
    ids=repr,
)
def test_editions_announce_what_they_run(edition: Edition, expected: list[str]) -> None:
    load, log = vector(), Log()
    with listen(log):
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    assert log.said == [said for name in expected for said in (name, "end")]
    edition.forward_backward(load.trunk, load.tasks, load.batch)
    assert len(log.said) == 2 * len(expected), "nobody listens any more"


def test_cut_announces_the_way_back() -> None:
    load, log = vector(), Log()
    with listen(log), cut(load.trunk(load.batch)) as z, phase("head mine", "forward"):
        z.sum().backward()
    assert log.said == ["head mine forward", "end", BACK, "end"]


def test_a_phase_ends_by_an_exception_too() -> None:
    load, log = vector(), Log()

    def fails(z: Tensor, batch: dict[str, Tensor]) -> None:
        raise RuntimeError("no")

    with listen(log), pytest.raises(RuntimeError, match="no"):
        Split().forward_backward(load.trunk, {"a": fails}, load.batch)
    assert log.said == [TRUNK, "end", "head a forward", "end"]


def test_other_threads_do_not_hear() -> None:
    log, seen = Log(), []
    with listen(log):
        thread = threading.Thread(target=lambda: seen.append(has_listeners()))
        thread.start()
        thread.join()
        assert has_listeners()
    assert seen == [False]
    assert not has_listeners()


def test_several_may_listen() -> None:
    first, second = Log(), Log()
    with listen(first), listen(second), phase("optimizer", "optimizer"):
        torch.zeros(1)
        with listen(second, alone=True), phase("zero_grad", "zero_grad"):
            torch.zeros(1)
    assert first.said == ["optimizer", "end"]
    assert second.said == ["optimizer", "zero_grad", "end", "end"]
