"""An edition that raises is a row of the table; absent tasks are named; the pieces are unequal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Split, Task, check
from mtl_accum.verify import examine
from mtl_accum.verify._check import _default_editions
from tests.verify.networks import N, Trunk, batch, tasks


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def forward_backward(self, trunk: Callable[..., Any], tasks: dict[str, Task], batch: dict[str, Tensor]) -> None:
        raise self.error


def test_failures_and_refusals_are_rows() -> None:
    def bad(b: dict[str, Tensor]) -> Tensor | None:
        if len(b["x"]) < N:
            raise ValueError("reshape: expected 7 rows")  # the network's own words, no edition's
        return trunk(b)

    trunk = Trunk()
    editions = {
        "error": Raises(RuntimeError("one\ntwo")),
        "memory": Raises(torch.OutOfMemoryError("x" * 9999)),
        "refused": Raises(ValueError("not for this model")),
        "pieces": Accumulated(Split(), 2),
        "nothing": NoLosses(),
        "split": Split(),
    }
    result = check(bad, tasks(), batch(), editions=editions)
    verdicts = ["failed", "failed", "refused", "failed", "DIFFERS", "exact"]
    assert [edition.verdict for edition in result.editions.values()] == verdicts
    assert result.editions["error"].failure == "RuntimeError: one two"
    assert len(result.editions["memory"].failure) < 400
    assert not result.passed() and not result.editions["error"].passed()
    assert "pieces: ValueError: reshape: expected 7 rows" in str(result)


class NoLosses:
    def forward_backward(
        self, trunk: Callable[..., Any], tasks: dict[str, Task], batch: dict[str, Tensor]
    ) -> dict[str, Any] | None:
        return {}


def test_features_kept_by_a_hook() -> None:
    kept: dict[Any, Any] = {}
    trunk = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    trunk[1].register_forward_hook(lambda module, inputs, output: kept.update(h=output))
    heads = {**tasks(), "mid": lambda z, b: kept["h"].square().mean()}
    result = check(lambda b: trunk(b["x"]), heads, batch())
    verdicts = {name: edition.verdict for name, edition in result.editions.items()}
    assert verdicts["per_task"] == "exact"
    assert {verdicts["split"], verdicts["accumulated"]} <= {"failed", "refused"}
    assert verdicts["cached"] in ("DIFFERS", "failed", "refused")
    assert kept == {}


def test_absent_tasks_are_named() -> None:
    heads = {**tasks(), "misspelt": Task(nn.Linear(8, 8), nn.MSELoss(), "why")}
    result = check(Trunk(), heads, batch(), editions={"split": Split()})
    assert result.absent == ("misspelt",)
    assert result.passed()
    assert "absent from this batch, so not checked: task 'misspelt'" in str(result)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 6, 7, 8, 16, 30])
def test_default_pieces_are_unequal(samples: int) -> None:
    result = examine(Trunk(), tasks(), batch(samples))
    assert result.passed()
    size = _default_editions(batch(samples))["cached"].chunk_size  # type: ignore[attr-defined]
    assert samples < 3 or 0 < samples % size < size


def test_examine_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    examine(Trunk(), tasks(), batch(), editions={"split": Split()})
    assert capsys.readouterr().out == ""
