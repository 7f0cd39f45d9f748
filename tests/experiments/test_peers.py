"""The study beside other libraries: its own code, on networks that take a moment and without those libraries."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.peers import bench, rows, run
from experiments.peers.bench import Batches, Bench, differences
from experiments.peers.lines import lines_of
from experiments.peers.networks import SITUATIONS
from experiments.peers.outcome import EXACT, Outcome
from experiments.peers.page import write
from experiments.peers.rows import HAND, ROWS, reference_of
from mtl_accum.memory import PeakMemory, TensorMeter

OWN = [row for row in ROWS if row.package is None]
OTHER_MASKS = {"loop per task", "Cached, 4 samples", "Accumulated Split, 4", "Cached", "Accumulated, 8"}


@pytest.mark.parametrize("row", OWN, ids=lambda row: row.name)
def test_the_gradient_is_the_sums(row: Any) -> None:
    without, with_ = differences(row)
    assert without <= EXACT
    assert (with_ > EXACT) == (row.name in OTHER_MASKS), "with dropout, other masks where the remark says so"


@pytest.mark.filterwarnings("ignore")  # of others
@pytest.mark.parametrize("row", [row for row in ROWS if row.package is not None], ids=lambda row: row.name)
def test_a_library_that_is_there_works(row: Any) -> None:
    if row.missing("cpu"):
        pytest.skip(row.missing("cpu"))
    without, _ = differences(row)
    assert (without <= EXACT) == (row.name != "LibMTL EW, rep_grad")


def test_a_missing_library_is_a_row(tmp_path: Path) -> None:
    """And so is one that fails; the page is written all the same."""
    absent = dataclasses.replace(ROWS[0], package="no_such_package", distribution="no-such-package")
    (item,) = run.measure([absent], "cpu", 0.05, 1)
    assert item.failure == "`no-such-package` is not installed"
    found = [Outcome(ROWS[0], [1.0, 1.0], _records(100)), item, Outcome(ROWS[2], [0.5, 0.9], _records(50))]
    found[0].differences, found[2].differences = (0.0, 0.0), (1e-15, 0.5)
    write(found, _arguments(tmp_path))
    page = (tmp_path / "README.md").read_text()
    assert "not measured: `no-such-package` is not installed" in page
    assert "0.70 (0.50 to 0.90)" in page
    assert "With dropout these train with other masks: cut by hand." in page
    assert [row["failure"] is None for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == [1, 0, 1]
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_all_of_them_missing_is_a_page_too(tmp_path: Path) -> None:
    write([Outcome(row, failure="it broke") for row in ROWS], _arguments(tmp_path, list(SITUATIONS)))
    assert (tmp_path / "README.md").read_text().count("not measured: it broke") == len(ROWS)


def test_liger_says_what_it_needs() -> None:
    (liger,) = (row for row in ROWS if row.name == "Liger")
    assert liger.missing("cpu").startswith("needs a GPU")


def test_lines_are_statements() -> None:
    def short(network: Any, batches: Any) -> None:
        """It is not counted."""
        import math

        for batch in batches:
            network(
                batch,
                math.pi,
            )

    assert lines_of(short) == 3
    assert {row.name: row.lines() for row in ROWS[:3]} == {"summed loop": 7, "loop per task": 6, "cut by hand": 9}


def test_a_step_ends_where_the_next_batch_is_asked_for() -> None:
    events = []

    class Around:
        def __enter__(self) -> None:
            events.append("begin")

        def __exit__(self, *_: Any) -> None:
            events.append("end")

    batches = Batches(["a", "b"], Around)
    for batch in batches:
        events.append(batch)
    assert events == ["a", "begin", "b", "end"]
    assert len(batches) == 3
    batches.check()
    with pytest.raises(RuntimeError, match="0 of 1 steps"):
        Batches(["a"]).check()


def test_a_row_is_timed_and_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; the allocator and the libraries' noise stay as they are."""
    monkeypatch.setattr(bench, "quiet", lambda: None)
    subject = Bench("Split", 0.05, "cpu")
    subject.prepare()
    assert subject.timed_step() > 0
    tensors = subject.memory()[0]
    assert tensors.source == TensorMeter.source
    assert tensors.peak_bytes > tensors.base_bytes > 0


def test_every_situation_begins_with_what_others_are_held_against() -> None:
    assert {reference_of(row).kind for row in ROWS} == {HAND}
    assert {row.situation for row in ROWS} == set(SITUATIONS)
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert rows.PEER in {row.kind for row in ROWS}


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["run", "--device", "cuda"])
    with pytest.raises(SystemExit):
        run.main()
    assert "there is no CUDA device here" in capsys.readouterr().err


def _records(size: Any) -> dict[str, Any]:
    return {source: PeakMemory(source, "cpu", size, 0, 0) for source in ("tensors", "process")}


def _arguments(folder: Path, situations: Any = ("tasks",)) -> Any:
    return argparse.Namespace(folder=folder, device="cpu", scale=0.05, rounds=2, threads=1, situations=situations)
