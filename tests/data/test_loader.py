"""Loaders: the same batches with any number of workers and from any start; failures name the sample."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mtl_accum.data import Loader, MixedLoader, SampleError, WorkerError, _worker_signals


class Noisy(Dataset):
    def __init__(self, samples: int = 23, *, breaks: int | None = None, dies: int | None = None) -> None:
        self.samples, self.breaks, self.dies = samples, breaks, dies

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        if index == self.breaks:
            raise OSError("no such image")
        if index == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = torch.randn(2) + random.random() + float(np.random.rand())
        return {"index": index, "x": noise}


def epochs(loader: Loader, count: int = 2, skip: int = 0) -> list[dict[str, Tensor]] | None:
    return [batch for epoch in range(count) for batch in loader.at(epoch, skip)]


def assert_same(actual: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["x"], other["x"])


def test_every_sample_once_an_epoch_in_another_order() -> None:
    loader = Loader(Noisy(), 5, shuffle=True)
    first, second = ([int(i) for batch in loader for i in batch["index"]] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert len(loader) == 5
    assert [len(batch["x"]) for batch in loader] == [5, 5, 5, 5, 3]
    short = Loader(Noisy(), 5, drop_last=True)
    assert len(short) == len(list(short)) == 4
    assert [int(i) for batch in short for i in batch["index"]] == list(range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    assert_same(epochs(Loader(Noisy(), 5, shuffle=True, num_workers=workers)), epochs(Loader(Noisy(), 5, shuffle=True)))


@pytest.mark.parametrize("workers", [0, 2])
def test_starts_at_any_batch(workers: int) -> None:
    whole = list(Loader(Noisy(), 5, shuffle=True, seed=3).at(4, 0))
    loader = Loader(Noisy(), 5, shuffle=True, seed=3, num_workers=workers)
    for batch in (3, 0, 5, 1):
        assert_same(list(loader.at(4, batch)), whole[batch:])


def test_random_numbers_of_the_process_stay() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    epochs(Loader(Noisy(), 5, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    one, other = (next(iter(Loader(Noisy(), 5, shuffle=True, seed=seed)))["x"] for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_fails_is_named(workers: int) -> None:
    with pytest.raises(SampleError, match="sample 7 of the data set: OSError: no such image") as error:
        epochs(Loader(Noisy(breaks=7), 5, shuffle=True, num_workers=workers))
    assert "__getitem__" in error.value.__notes__[0]


def test_a_worker_that_is_killed() -> None:
    words = r"DataLoader worker .* (exited unexpectedly|is killed by signal).*fewer data.num_workers"
    with pytest.raises(WorkerError, match=words):
        epochs(Loader(Noisy(dies=7), 5, num_workers=2))


def test_a_worker_whose_death_the_signal_handler_reports_first(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(Noisy(), 5)

    def batches(_: Any) -> Iterator[None]:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        yield

    monkeypatch.setattr(type(loader._loader), "__iter__", batches)
    with pytest.raises(WorkerError, match=r"is killed by signal: Killed.*fewer data.num_workers"):
        epochs(loader)


def _mixed_up(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = default_collate(samples)
    return {**batch, "x": batch["x"] + torch.rand(1)}


def test_a_collate_that_draws_is_the_same_everywhere() -> None:
    here = epochs(Loader(Noisy(), 5, shuffle=True, collate=_mixed_up))
    assert_same(epochs(Loader(Noisy(), 5, shuffle=True, num_workers=2, collate=_mixed_up)), here)
    assert_same(epochs(Loader(Noisy(), 5, shuffle=True, collate=_mixed_up), 1, 2), here[2:5])


def test_one_reader_at_a_time() -> None:
    loader = Loader(Noisy(), 5)
    first, second = iter(loader), iter(loader)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="this iterator of a Loader is over: another one has begun"):
        next(first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_training_process(number: Any) -> None:
    loader = iter(Loader(Noisy(200), 5, num_workers=2))
    next(loader)
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
    assert len(list(loader)) == 39


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_still_starting_survives_them_too(monkeypatch: pytest.MonkeyPatch, number: Any) -> None:
    ready = _worker_signals.IgnoreSignals.__call__

    def late(initializer: Any, worker: Any) -> None:
        time.sleep(worker)
        ready(initializer, worker)

    monkeypatch.setattr(_worker_signals.IgnoreSignals, "__call__", late)
    loader = iter(Loader(Noisy(200), 5, num_workers=2))
    next(loader)
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
    assert len(list(loader)) == 39


def test_the_training_process_receives_signals_itself() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    next(iter(Loader(Noisy(), 5, num_workers=1)))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_workers_end_with_their_process(tmp_path: Path) -> None:
    """Also after SIGTERM to the whole group, and if an exception keeps the iterator alive."""
    code = """
import os, signal
import torch
from mtl_accum.data import Loader

rows = torch.utils.data.TensorDataset(torch.zeros(200, 1))
batches = iter(Loader(rows, 5, num_workers=2))
next(batches)
signal.signal(signal.SIGTERM, lambda number, frame: None)
os.killpg(0, signal.SIGTERM)
assert len(list(batches)) == 39
batches = iter(Loader(rows, 5, num_workers=2))
next(batches)
raise SystemExit(7)
"""
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        assert process.wait(60) == 7
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"num_workers": -1}, {"prefetch_factor": 0}])
def test_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Loader(Noisy(), **{"batch_size": 5, **settings})


class Named(Dataset):
    def __init__(self, name: str, samples: int) -> None:
        self.name, self.samples = name, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        return {self.name: index}


def mixed(policy: str, **settings: Any) -> MixedLoader | None:
    loaders = {name: Loader(Named(name, size), 2, shuffle=True) for name, size in (("a", 12), ("b", 4), ("c", 2))}
    return MixedLoader(loaders, policy, **settings)


def names(batches: MixedLoader) -> str:
    return "".join(next(iter(batch)) for batch in batches)


def test_policies() -> None:
    assert names(mixed("round_robin")) == "abc" * 6
    proportional = mixed("proportional")
    first, second = names(proportional), names(proportional)
    assert sorted(first) == sorted(second) == sorted("a" * 6 + "b" * 2 + "c")
    assert first != second
    for batch in mixed("proportional"):
        for values in batch.values():
            assert len(values) == 2
    even = [names(mixed("temperature", temperature=1e6, seed=seed)) for seed in range(60)]
    share = "".join(even).count("c") / len("".join(even))
    assert share == pytest.approx(1 / 3, abs=0.06)
    steep = "".join(names(mixed("temperature", seed=seed)) for seed in range(60))
    assert steep.count("c") / len(steep) == pytest.approx(1 / 9, abs=0.05)


@pytest.mark.parametrize("policy", ["round_robin", "proportional", "temperature"])
def test_a_mixture_starts_at_any_batch(policy: str) -> None:
    whole = [str(batch) for batch in mixed(policy).at(3, 0)]
    for batch in (0, 1, 5, 8):
        assert [str(one) for one in mixed(policy).at(3, batch)] == whole[batch:]
    assert len(whole) == len(mixed(policy))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "chance"}, "policy must be one of round_robin, proportional, temperature; found 'chance'"),
        ({"policy": "temperature", "temperature": 0}, "temperature must be a number above 0; found 0"),
    ],
)
def test_mixtures_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(**settings)
    with pytest.raises(ValueError, match="loaders must hold at least one"):
        MixedLoader({})
