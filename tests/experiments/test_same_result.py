"""The study of whole trainings, on networks that take a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.same_result import run, ways

NETWORK = ["model.trunk.width=4", "model.trunk.depth=2", "model.tasks.digit.head.depth=1"]
PLAN = ways.Plan(
    seeds=(3,), epochs=1, batch=512, base_batch=256, network=[*NETWORK, "model.tasks.denoise.head.depth=1"]
)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    threads = torch.get_num_threads()
    ways.one_thread()
    by_part = {part: getattr(ways, part)(PLAN, 3) for part in ("editions", "batches")}
    torch.set_num_threads(threads)
    return {part: {name: [of] for name, of in seeds.items()} for part, seeds in by_part.items()}


def test_editions_that_are_claimed_to_be_the_same_are(found: dict[str, Any]) -> None:
    for name, (_, claimed) in ways.EDITIONS.items():
        (seed,) = found["editions"][name]
        assert seed["losses_apart"] < 1e-4, name
        assert not claimed or (seed["same_losses"] and seed["same_weights"] and seed["weights_apart"] == 0), name


def test_a_changed_bit_is_seen(found: dict[str, Any]) -> None:
    (seed,) = found["editions"][ways.NUDGED]
    assert not seed["same_weights"]
    assert 0 < seed["weights_apart"] < 1e-4


def test_a_larger_batch_takes_fewer_steps_at_its_own_rate(found: dict[str, Any]) -> None:
    steps = [seeds[0]["steps"] for seeds in found["batches"].values()]
    assert steps == [6, *([1] * 4)]  # 1347 samples: 6 batches of an epoch, and one window
    after = {name: seeds[0]["psnr"] for name, seeds in found["batches"].items() if "warm" not in name}
    assert len(set(after.values())) == len(after)


def test_the_report_says_what_was_found(found: dict[str, Any], tmp_path: Path) -> None:
    assert run.write(PLAN, {**found, "took_seconds": 60.0}, tmp_path) == []
    page, results = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "results.json").read_text())
    assert "| split | yes | 1 of 1 seeds | 0 | 0 | 0 |" in page
    assert results["editions"]["split"]["identical_seeds"] == 1
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    broken = {**found["editions"], "split": [{**found["editions"]["split"][0], "same_weights": False}]}
    assert run.write(PLAN, {**found, "editions": broken, "took_seconds": 60.0}, tmp_path) == [
        "split: claimed to the last bit, and not so"
    ]
    assert "**Claimed and not so: split.**" in (tmp_path / "README.md").read_text()
