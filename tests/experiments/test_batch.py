"""The study of the largest batch: the search against known functions, and its code with trials that take a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.batch import measure as measuring
from experiments.batch import run
from experiments.batch.measure import Row, Scales, search
from experiments.batch.search import largest
from experiments.batch.trial import EDITIONS, NETWORKS, Trial, Weight, edition_of, weigh

CPU = torch.device("cpu")
TINY = {"dense heads": {"width": 4, "size": 8}, "transformer": {"width": 16, "length": 8}}


@pytest.mark.parametrize("start", [1, 2, 7, 16, 1000])
@pytest.mark.parametrize("answer", [0, 1, 2, 3, 15, 16, 17, 99, 100])
def test_the_largest_number_is_found(start: int, answer: int) -> None:
    tried = []

    def fits(number: Any) -> bool:
        tried.append(number)
        return number <= answer

    assert largest(fits, cap=100, start=start) == answer
    assert len(tried) == len(set(tried)) <= 15, "no number twice"
    assert all(1 <= number <= 100 for number in tried)
    assert answer in (0, *tried)
    assert answer in (100, *(number - 1 for number in tried)), "the next one was seen not to fit"


def test_nothing_fits() -> None:
    assert largest(lambda _: False, cap=64) == 0
    assert largest(lambda _: False, cap=64, start=40) == 0
    assert largest(lambda _: False, cap=1) == 0


def test_everything_fits_up_to_the_cap() -> None:
    for cap in (1, 2, 63, 64, 65):
        assert largest(lambda _: True, cap=cap) == cap
        assert largest(lambda _: True, cap=cap, start=5, resolution=0.5) == cap


def test_a_coarse_search_takes_fewer_trials_and_stays_on_the_right_side() -> None:
    counts = []
    for resolution in (0.0, 1 / 32, 1 / 4):
        tried: list[Any] = []
        found = largest(lambda n, tried=tried: tried.append(n) or n <= 777, cap=4096, resolution=resolution)  # type: ignore[misc]
        assert 777 / (1 + resolution) - 1 <= found <= 777
        counts.append(len(tried))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize("wrong", [{"cap": 0}, {"cap": 1, "start": 0}, {"cap": 1, "resolution": -1}])
def test_a_search_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        largest(lambda _: True, **wrong)


def trial(batch: Any, network: str = "dense heads", edition: str = "split") -> Any:
    return Trial(network, edition, batch, tuple(TINY[network].items()), CPU)


def test_two_searches_share_their_trials() -> None:
    run_for = []

    def pretend(one: Any) -> Any:
        run_for.append(one.batch)
        return None if one.batch > 50 else Weight(tensors=10 * one.batch, process=1000 + 20 * one.batch)

    scales = Scales(trial, pretend)
    tensors, process = Row("dense heads", "split", 333, "tensors"), Row("dense heads", "split", 1500, "process")
    for row in (tensors, process):
        search(scales, row, cap=4096, start=8, resolution=0)
    assert (tensors.batch, tensors.used, tensors.tries[34]) == (33, 330, 340)
    assert (process.batch, process.used) == (25, 1500)
    assert len(run_for) == len(set(run_for)) < len(tensors.tries) + len(process.tries)
    everything = Row("dense heads", "split", 10**9, "tensors")
    search(scales, everything, cap=4096, start=8, resolution=0)
    assert (everything.batch, everything.tries[64]) == (50, None), "where memory runs out it does not fit"
    nothing = Row("dense heads", "split", 5, "tensors")
    search(scales, nothing, cap=4096, start=8, resolution=0)
    assert (nothing.batch, nothing.used) == (0, None)


def test_on_a_gpu_running_out_is_the_judge() -> None:
    scales = Scales(trial, lambda one: None if one.batch > 20 else Weight(5, 300, 10**9))
    row = Row("dense heads", "split", 100, "allocator")
    search(scales, row, cap=64, start=8, resolution=0)
    assert (row.batch, row.used, row.driver) == (20, 10**9, 300)


def test_editions_of_any_batch() -> None:
    assert [edition_of("cached", batch).chunk_size for batch in (1, 2, 4, 5, 9)] == [1, 1, 1, 2, 3]
    assert [edition_of("accumulated", batch).micro_batches for batch in (1, 3, 9)] == [1, 3, 4]


@pytest.mark.slow  # a case like it is quick
def test_a_trial_in_a_process_of_its_own() -> None:
    small, large = weigh(trial(1)), weigh(trial(8))
    assert 0 < small.tensors < large.tensors
    assert small.process is None or small.process > small.tensors


def test_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With trials in this process, which are weighed by the formula of a straight line."""

    def pretend(one: Any) -> Any:
        each = {"summed": 40, "per_task": 10, "split": 10, "cached": 5, "accumulated": 10}[one.edition]
        return Weight(2**20 * each * one.batch // 8, 2**20 * (300 + each * one.batch // 8))

    class Here:
        def __init__(self, timed: Any) -> None:
            self._batch = timed._trial.batch

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def call(self, method: Any) -> Any:
            return 0.001 * self._batch if method == "timed_step" else None

    monkeypatch.setattr(measuring, "forked", Here)
    monkeypatch.setattr(run, "weigh", pretend)
    monkeypatch.setattr(run, "Scales", lambda of: Scales(of, pretend))
    run.main(["--scale", str(24 * 2**20 / run.BUDGET)], tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(found) == len(NETWORKS) * len(EDITIONS) * 2
    batches = {row["edition"]: row["batch"] for row in found if row["of"] == "tensors"}
    assert batches == {"summed": 4, "per_task": 19, "split": 19, "cached": 38, "accumulated": 19}
    assert all(row["ratio"] == pytest.approx(1.0) for row in found if row["of"] == "tensors")
    page = (tmp_path / "README.md").read_text()
    assert "split 4.75 times at 1.00 of the speed" in page
    assert "Answers over their limit: 0 of 10." in page
    assert (tmp_path / "batch.png").stat().st_size > 10_000


def test_conclusions_where_nothing_fits() -> None:
    rows = [Row("n", edition, 10, "tensors") for edition in EDITIONS]
    assert "not even a batch of 1" in run.conclusions(rows)[0]
    assert run.table(rows)[1] == ["n", "summed", "0", "–", "–", "0"]


def test_what_does_not_grow_with_the_batch_is_told() -> None:
    steady = Row("n", "split", 10, "process", tries={4: 4, 2: 2, 8: None})
    falling = Row("n", "cached", 10, "process", tries={2: 3 * 2**20, 4: 2**20})
    assert run.jumps([steady]) == []
    assert run.jumps([steady, falling])[0].endswith("n, cached (down by 2.00 MiB).")
