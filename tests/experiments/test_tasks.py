"""The study of the number of tasks, on networks that take a moment."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.tasks import measure as measuring
from experiments.tasks import networks, run, verdict
from experiments.tasks.checkpointed_heads import CheckpointedHeads
from experiments.tasks.fit import fit
from experiments.tasks.measure import Cell, measure
from experiments.tasks.picture import spread
from experiments.tasks.torch_jd import TorchJD
from mtl_accum import MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.testing import many_heads

CPU = torch.device("cpu")


@pytest.mark.parametrize(("slope", "intercept"), [(3.0, 5.0), (-0.5, 100.0), (12345.0, 0.0)])
def test_a_line_is_found(slope: float, intercept: float) -> None:
    xs = [2, 4, 8, 16, 64]
    line = fit(xs, [intercept + slope * x for x in xs])
    assert (line.slope, line.r2) == (pytest.approx(slope), pytest.approx(1.0))
    assert line.intercept == pytest.approx(intercept, abs=1e-6)


def test_points_off_a_line() -> None:
    line = fit([0, 1, 2], [0.0, 1.0, 0.0])
    assert (line.slope, line.intercept, line.r2) == (pytest.approx(0), pytest.approx(1 / 3), pytest.approx(0))
    assert fit([1, 2, 3], [7, 7, 7]).r2 is None, "nothing varies, nothing is explained"
    assert fit([4], [1]) is fit([4, 4], [1, 2]) is fit([], []) is None
    with pytest.raises(ValueError, match="as many as xs, found 1 and 2"):
        fit([1, 2], [1])


def test_labels_move_apart_and_no_further() -> None:
    assert spread({"a": 0.0, "b": 5.0}, gap=1.0) == {"a": 0.0, "b": 5.0}
    assert spread({"b": 0.1, "a": 0.0, "c": 9.0}, gap=1.0) == pytest.approx({"a": -0.45, "b": 0.55, "c": 9.0})
    placed = spread({str(n): 0.1 * n for n in range(6)}, gap=1.0)
    heights = [placed[str(n)] for n in range(6)]
    assert all(b - a == pytest.approx(1.0) for a, b in pairwise(heights))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started: the study's own code is what is tested."""

    class Here:
        def __init__(self, subject: Any) -> None:
            self._subject = subject

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def call(self, method: Any) -> Any:
            if method in ("tune_for_timing", "tune_for_memory"):  # they would change this process's allocator
                return None
            try:
                return getattr(self._subject, method)()
            except Exception as error:
                raise measuring.MeasurementError(f"{type(error).__name__}: {error}") from error  # type: ignore[attr-defined]

    monkeypatch.setattr(measuring, "forked", Here)


def few(monkeypatch: Any) -> Any:
    """Networks that take a moment."""
    small = {name: replace(family, samples=8, counts=(1, 2, 4)) for name, family in networks.FAMILIES.items()}
    small["dense"] = replace(small["dense"], make=lambda tasks, samples: networks.dense(tasks, samples, 4, 8))
    for module in (networks, run):
        monkeypatch.setattr(module, "FAMILIES", small)
    monkeypatch.setattr(run, "rounds", lambda _: 1)
    monkeypatch.setattr(run, "STARTS", 2)
    return small


def test_a_family_is_measured(in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    family = few(monkeypatch)["dense"]
    cells = measure(family, (1, 2, 4), 8, lambda _: 2, CPU)
    ways = run.by_way(cells)
    assert list(ways) == [
        *("summed", "per_task", "split", "split loss", "checkpointed heads"),
        *("cached", "checkpointed", "torchjd", "torchjd by 1"),
    ]
    for way, row in ways.items():
        if way.startswith("torchjd") and row[0].failure:
            assert "torchjd is not installed" in row[0].failure
            continue
        assert [cell.tasks for cell in row] == [1, 2, 4]
        assert all(len(cell.seconds) == 2 and cell.ratio > 0 for cell in row)
        assert all(cell.peak > cell.resting > 0 and cell.difference < 1e-5 for cell in row)
        assert [cell.resting for cell in row] == [cell.resting for cell in ways["summed"]]
    last = {way: row[-1].above for way, row in ways.items()}
    assert last["summed"] > last["split"] > last["cached"]
    assert ways["split"][2].above - ways["split"][1].above == 2 * 4, "a float32 loss a task"
    assert last["split loss"] < 1.05 * ways["split loss"][1].above
    assert last["checkpointed heads"] < 0.8 * last["summed"]


def test_resting_bytes_are_all_that_is_there_under_any_schedule(
    in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = few(monkeypatch)["tiny"]
    cell = measure(family, (3,), 8, lambda _: 1, CPU)[0]
    model, batch = many_heads(heads=3, width=64, samples=8)
    weights = sum(4 * p.numel() for p in model.parameters())
    steps = 4 * len(list(model.parameters()))  # AdamW's counters
    assert cell.resting == 4 * weights + steps + sum(t.numel() * 4 for t in batch.values())


@pytest.mark.slow  # a case like it is quick
def test_the_report(
    in_this_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few(monkeypatch)
    tmp_path = tmp_path / "not there yet"
    run.main([], tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "Split's peak above the resting bytes grows by" in page
    assert "the summed loss's grows linearly" in page
    assert run.COMMAND in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["cells"]) == 2 * 9 * 3
    assert "the peak of `Split().loss` and its backward" in page
    assert found["lines"]["dense"]["summed"]["above"]["slope"] > found["lines"]["dense"]["split"]["above"]["slope"]
    assert {p.name for p in tmp_path.glob("*.png")} == {
        f"{family}_{what}.png" for family in ("dense", "tiny") for what in ("memory", "time")
    }


def test_a_way_that_fails_is_a_row_with_its_reason(in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    family = few(monkeypatch)["tiny"]

    class Broken:
        def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> None:
            raise RuntimeError("it broke")

    monkeypatch.setattr(measuring, "ways", lambda *_: {"summed": SummedLoss(), "split": Broken()})
    cells = measure(family, (1, 2), 8, lambda _: 1, CPU)
    assert [cell.failure for cell in cells] == [None, None, "it broke", "it broke"]
    assert cells[2].peak is cells[2].ratio is cells[2].above is None
    assert run.table_of(cells, run._time)[2] == ["split", "–", "–"]
    assert run.slopes(cells)[2][1:] == ["–"] * 9
    assert verdict.target_of_split(run.by_way(cells)["split"]) == "Split's growth: not measured."


def test_targets_that_are_met_and_missed() -> None:
    def cells(*above: Any) -> list[Any]:
        return [Cell("dense", "split", 2**n, resting=10, peak=10 + size) for n, size in enumerate(above)]

    flat = verdict.target_of_split(cells(500, 10000, 10008, 10024))
    assert flat.startswith("**Target met**")
    assert "+0.2400% from 2 to 8" in flat
    assert "24 bytes, 4.0 a task, which is about what the 0-dim losses" in flat
    assert verdict.target_of_split(cells(500, 10000, 11000)).startswith("**Target MISSED**")
    grown = cells(500, 2000, 4000, 8000)
    assert verdict.target_of_summed(grown, fit([2, 4, 8], [2000, 4000, 8000])).startswith("**Target met**")
    assert verdict.target_of_summed(grown, fit([2, 4, 8], [2000, 4000, 16000])).startswith("**Target MISSED**")
    assert verdict.target_of_summed([], None) == "The summed loss's growth: not measured."


def test_targets_of_the_loss() -> None:
    def cells(way: Any, above: Any, seconds: Any, ratio: Any = None) -> list[Any]:
        return [
            Cell("dense", way, 2**n, resting=10, peak=10 + size, seconds=[seconds, 2 * seconds], ratio=ratio)
            for n, size in enumerate(above)
        ]

    flat, grown = [9000, 10000, 10100, 10200], [9000, 10000, 10100, 10600]
    heads = cells("checkpointed heads", flat, 1.5)
    met = verdict.targets_of_loss(cells("split loss", flat, 1.0, 0.98), heads)
    assert [text.startswith("**Target met**") for text in met] == [True, True, True]
    assert "+2.0000% from 2 to 8 tasks (less than 5% was wanted)" in met[0]
    assert "is 0.98 of the summed loss's (at most 1.02 was wanted)" in met[1]
    assert "is 0.67 of that of heads under" in met[2]
    missed = verdict.targets_of_loss(cells("split loss", grown, 1.4, 1.1), heads)
    assert [text.startswith("**Target MISSED**") for text in missed] == [True, True, True]
    assert verdict.targets_of_loss([], []) == ["The growth of `Split().loss`: not measured."]
    untimed = verdict.targets_of_loss([replace(c, seconds=[], ratio=None) for c in cells("l", flat, 1.0)], heads)
    assert len(untimed) == 1


def test_checkpointed_heads_give_the_summed_gradient() -> None:
    model, batch = networks.dense(3, 4, 4, 8)
    gradients = []
    for edition in (SummedLoss(), CheckpointedHeads()):
        model.zero_grad()
        losses = edition.forward_backward(model.trunk, model.tasks, batch)
        gradients.append([*losses.values(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(map(torch.equal, *gradients))


def test_torchjd_gives_the_summed_gradient() -> None:
    pytest.importorskip("torchjd")
    model, batch = networks.dense(3, 4, 4, 8)
    gradients = []
    for edition in (SummedLoss(), TorchJD(), TorchJD(chunk=1)):
        model.zero_grad()
        losses = edition.forward_backward(model.trunk, model.tasks, batch)
        assert list(losses) == list(model.tasks)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0], rtol=1e-4, atol=1e-6)


def test_torchjd_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchjd.aggregation", None)
    model, batch = networks.dense(2, 4, 4, 8)
    with pytest.raises((RuntimeError, ModuleNotFoundError), match="torchjd"):
        TorchJD().forward_backward(model.trunk, model.tasks, batch)


def test_the_ways_of_a_device() -> None:
    assert "offloaded" not in networks.ways("dense", 8, CPU)
    assert "offloaded" in networks.ways("dense", 8, torch.device("cuda"))
    assert networks.ways("tiny", 8, CPU)["split by 16"] == Split(heads_per_graph=16)
    assert PerTask() in networks.ways("tiny", 8, CPU).values()
    with pytest.raises(TypeError, match="trunk must be a module"):
        pytest.importorskip("torchjd")
        TorchJD().forward_backward(
            lambda b: b, MultiTaskModel(torch.nn.Identity(), {"a": Task(abs, abs, "a")}, "x").tasks, {}
        )
