"""SIGKILL at random moments, in steps and inside of checkpoint writes: every run ends with the bits of an unbroken one.

pytest -m faults -n 0 tests/training/checkpoint/test_faults.py -s      # the long one, which prints its counts
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_accum.training.callbacks import CheckpointCallback, CheckpointConfig
from mtl_accum.training.checkpoint import FOLDER, newest_checkpoint
from tests.training.runs import assert_same, make, outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, which is safe on Linux only; found another")
SLOW = {"epochs": 12, "accumulate": 2}
LOOPS = [{"epochs": 8}, SLOW, {"epochs": 8, "clip_norm": 0.5}]


def _life(folder: Path, loop: Any, done: Any) -> None:
    """One life of a run: goes on from the newest checkpoint, writes one after every step, says when it is over."""
    torch.set_num_threads(1)
    run = make(
        callbacks=[
            CheckpointCallback(
                CheckpointConfig(every_steps=1, every_seconds=None), folder, {"config": {}, "plan": None}
            )
        ],
        **loop,
    )
    found = newest_checkpoint(folder / FOLDER)
    if found is not None:
        run.restore(found.tensors, found.values)
    run.run()
    torch.save(outcome(run), done)


def _kill_until_done(folder: Path, loop: dict[str, int], generator: Any, longest: float) -> tuple[int, int]:
    """Start and kill a run until it gets through; how often it was killed, and how often inside of a write."""
    done, kills, writing = folder / "done.pt", 0, 0
    context = get_context("fork")
    while not done.exists():
        process = context.Process(target=_life, args=(folder, loop, done))
        process.start()
        time.sleep(generator.uniform(0.02, longest))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        writing += bool(list(folder.glob(f"{FOLDER}/.writing-*")))
        longest *= 1.03  # gets through in the end
    return kills, writing


def _many(folder: Path, wanted: int, longest: float) -> list[int]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked processes have no pool of threads
    generator, counts = random.Random(0), [0, 0, 0]
    try:
        while counts[0] < wanted:
            loop = LOOPS[counts[2] % len(LOOPS)]
            expected = make(**loop)
            expected.run()
            here = folder / str(counts[2])
            here.mkdir()
            kills, writing = _kill_until_done(here, loop, generator, longest)
            assert_same(torch.load(here / "done.pt"), outcome(expected))
            counts = [counts[0] + kills, counts[1] + writing, counts[2] + 1]
    finally:
        torch.set_num_threads(threads)
    print(f"{counts[0]} kills, {counts[1]} of them inside of a write, over {counts[2]} runs; all bit-identical")
    return counts


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kills, _, runs = _many(tmp_path, wanted=6, longest=0.3)
    assert kills >= 6
    assert runs >= 1


@pytest.mark.faults
def test_killed_two_hundred_times(tmp_path: Path) -> None:
    kills, writing, _ = _many(tmp_path, wanted=200, longest=0.3)
    assert kills >= 200
    assert writing >= 20
