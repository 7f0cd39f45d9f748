"""Memory runs out for real: the system refuses it, in a process of its own; the next schedule gets through."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Edition, MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.measure._fresh_process import FreshProcess
from mtl_accum.memory import free_after_failure, host_memory, keep_freed_memory
from mtl_accum.planning import format_edition
from mtl_accum.training.loop import TrainConfig, Training
from tests.processes import FORK_SERVER

CPU = torch.device("cpu")
LADDER: list[Edition] = [SummedLoss(), Split(), Split(head_chunks=4), Accumulated(Split(), 8), Accumulated(Split(), 32)]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets a limit of Linux")


def convolutional() -> tuple[nn.Sequential, Any, Callable[..., Any]]:
    """Convolutions are oneDNN's, which says in its own words that it got no memory."""
    width = 32
    layers = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(4):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()]
    heads = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1)) for _ in range(3)]
    return nn.Sequential(*layers), heads, lambda: {"x": torch.randn(32, 3, 32, 32), "y": torch.randn(32, 1, 32, 32)}


def linear() -> tuple[Any, Any, Callable[..., Any]]:
    trunk = nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 128))
    heads = [nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 4)) for _ in range(3)]
    return trunk, heads, lambda: {"x": torch.randn(8192, 32), "y": torch.randn(8192, 4)}


NETWORKS = {"convolutional": convolutional, "linear": linear}


@dataclass
class Trial:
    """A training in which no more than so many MiB may be added to what the process has when it begins."""

    network: str
    room: int | None = None

    def run(self) -> tuple[Any, ...]:
        """Losses, what was said when a schedule took over, and the last schedule."""
        torch.set_num_threads(1)
        keep_freed_memory()
        torch.manual_seed(0)
        trunk, heads, batch = NETWORKS[self.network]()
        tasks = {f"t{number}": Task(head, nn.MSELoss(), "y") for number, head in enumerate(heads)}
        model = MultiTaskModel(trunk, tasks, "x")
        batches = [batch() for _ in range(3)]
        changes: list[Any] = []
        run = Training(
            *(model, batches, LADDER, torch.optim.AdamW(model.parameters()), TrainConfig(epochs=1)),
            device=CPU,
            on_change=changes.append,
        )
        if self.room is not None:
            limit(self.room << 20)
        return run.run(), changes, format_edition(run.train_step.edition)


def limit(room: int) -> None:
    import resource

    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.getrlimit(resource.RLIMIT_DATA)[1]))


@pytest.fixture(scope="module")
def child() -> Callable[..., Any]:
    """Runs a subject in a process that is forked from one which has imported everything, and has no other memory."""

    def run(subject: Any) -> tuple[Any, ...]:
        with FreshProcess(subject, FORK_SERVER) as process:
            return process.call("run")

    return run


@pytest.mark.parametrize(("network", "room"), [("convolutional", 25), ("convolutional", 45), ("linear", 25)])
def test_the_next_schedule_gets_through(child: Callable[..., Any], network: str, room: int) -> None:
    losses, changes, last = child(Trial(network, room))
    assert changes
    assert last != format_edition(LADDER[0])
    expected, none, _ = child(Trial(network))
    assert not none
    for name, history in expected.items():
        assert losses[name] == pytest.approx(history, rel=1e-4)


class Headroom:
    """What may still be taken under a limit, and after most of it was."""

    def run(self) -> tuple[Any, ...]:
        limit(100 << 20)
        before = host_memory()
        kept = torch.ones(80 << 18)
        return before, host_memory(), kept.nbytes


def test_a_limit_of_the_process_is_the_memory_that_there_is(child: Callable[..., Any]) -> None:
    (free, total), (left, _), size = child(Headroom())
    assert free <= 100 << 20 < total
    assert size <= free - left <= size + (1 << 20)


class FailedBackward:
    """A graph whose backward failed is freed, though autograd's queue holds on to it."""

    def run(self) -> tuple[Any, ...]:
        alive: list[Any] = []

        class Kept(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Tensor:
                ctx.it = Marker(alive)
                return x.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                return gradient

        class Full(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> None:
                raise torch.OutOfMemoryError("full")

        x = torch.ones(3, requires_grad=True)
        with suppress(torch.OutOfMemoryError):
            (Kept.apply(x * 2) + Full.apply(x * 3)).sum().backward()
        before = len(alive)
        free_after_failure(CPU, "full")
        return before, len(alive)


class Marker:
    """Is in a list as long as it lives."""

    def __init__(self, alive: Any) -> None:
        self._alive = alive
        alive.append(1)

    def __del__(self) -> None:
        self._alive.pop()


def test_the_graph_of_a_failed_backward_is_let_go_of(child: Callable[..., Any]) -> None:
    assert child(FailedBackward()) == (1, 0)


def test_kernels_whose_generator_got_no_memory_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr("mtl_accum.memory._free_after_failure.release_freed_memory", lambda: None)
    monkeypatch.setattr(torch.backends.mkldnn, "set_flags", set_to.append)
    free_after_failure(CPU, "DefaultCPUAllocator: can't allocate memory")
    assert set_to == []
    free_after_failure(CPU, "could not create a primitive")
    assert set_to == [False]
