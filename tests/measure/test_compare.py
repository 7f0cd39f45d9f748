"""Editions side by side, each in a fresh process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mtl_accum import PerTask, Split, SummedLoss, compare
from mtl_accum.measure._worker import MeasurementWorker
from mtl_accum.memory import ProcessMeter
from mtl_accum.testing import many_heads
from tests.measure.networks import parts


def dies() -> None:
    raise MemoryError("no room")


def test_measures_every_edition_and_changes_nothing() -> None:
    trunk, tasks, batch, optimizer = parts()
    before = [parameter.clone() for parameter in trunk.parameters()]
    random = torch.get_rng_state()
    rows = compare(trunk, tasks, batch, optimizer=optimizer, steps=2)
    assert [row.edition for row in rows] == ["summed", "per_task", "split"]
    assert [row.failure for row in rows] == [None] * 3
    assert all(len(row.step_seconds) == 2 and min(row.step_seconds) > 0 for row in rows)
    assert all(row.gradient_difference <= 1e-5 for row in rows)
    peaks = [{record.source: record.peak_bytes for record in row.memory}["tensors"] for row in rows]
    assert max(peaks[1:]) < 0.75 * peaks[0]
    assert all(torch.equal(a, b) for a, b in zip(before, trunk.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in trunk.parameters())
    assert not optimizer.state
    assert torch.equal(random, torch.get_rng_state())


def test_snapshots_and_what_every_record_says(tmp_path: Path) -> None:
    rows = compare(*parts()[:3], editions={"split": Split()}, steps=1, snapshots=tmp_path)
    snapshot = pickle.loads((tmp_path / "split.pickle").read_bytes())
    records = {record.source: record for record in rows[0].memory}
    tensors = records["tensors"]
    assert len(snapshot["device_traces"][0]) > 50
    assert tensors.categories.total == tensors.peak_bytes
    assert tensors.edition == records["process"].edition == repr(Split())
    assert [phase.name for phase in tensors.timeline][:3] == ["trunk", "head digit", "head digit"]


def test_live_tensors_of_compiled_code_are_too_few_and_say_so() -> None:
    model, batch = many_heads(heads=1)
    bench = MeasurementWorker((torch.compile(model.trunk, backend="aot_eager"), model.tasks, batch, None), Split())
    bench.prepare()
    assert "compiled code makes tensors that no operator shows" in bench.memory()[0].caveats[0]


def test_a_meter_that_is_not_available_is_a_record_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessMeter, "unavailable", staticmethod(lambda: "no /proc here"))
    bench = MeasurementWorker(parts(), Split())
    bench.prepare()
    process = bench.memory()[1]
    assert (process.source, process.peak_bytes, process.process_bytes) == ("process", None, None)
    assert process.caveats == ("process: not measured, no /proc here",)


def test_build_serves_closures_and_failures_are_rows() -> None:
    trunk, tasks, batch, _ = parts()
    rows = compare(lambda b: trunk(b), tasks, batch, editions={"split": Split()}, steps=1, build=dies)
    assert rows[0].failure == "MemoryError: no room"
    assert rows[0].memory == [] and rows[0].step_seconds == [] and rows[0].gradient_difference is None


def test_closures_are_refused_with_the_fix() -> None:
    trunk, tasks, batch, _ = parts()
    with pytest.raises(TypeError, match="cannot be sent to a fresh process .* build=: an importable function"):
        compare(lambda b: trunk(b), tasks, batch, editions={"per_task": PerTask()})


def test_wrong_arguments_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="editions must be a mapping from names to editions, found list"):
        compare(*parts()[:3], editions=[Split()])
    with pytest.raises(ValueError, match="snapshots must be a folder that exists, found .*nowhere"):
        compare(*parts()[:3], snapshots=str(tmp_path / "nowhere"))


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps must be a positive integer, found 0"):
        compare(*parts()[:3], steps=0)


def test_first_sentence_is_the_meaning() -> None:
    rows = compare(*parts()[:3], editions={"mine": SummedLoss()}, steps=1, build=dies)
    assert rows[0].meaning == "Edition 1: all heads, one sum, one backward."
