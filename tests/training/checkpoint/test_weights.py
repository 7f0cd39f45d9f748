"""Trained weights are held against the digest in their report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from mtl_accum.training.checkpoint import WEIGHTS, check_weights, save_weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder."""
    weights = save_weights(torch.nn.Linear(2, 2), tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"weights": weights}))
    return tmp_path


def test_those_of_the_report(run: Path) -> None:
    assert check_weights(run / WEIGHTS) == "their SHA-256 is the one in report.json"
    (run / "elsewhere").mkdir()
    (run / WEIGHTS).rename(run / "elsewhere" / WEIGHTS)
    (run / WEIGHTS).symlink_to(f"elsewhere/{WEIGHTS}")  # a person may keep them on another disk
    assert check_weights(run / WEIGHTS) == "their SHA-256 is the one in report.json"


def test_others(run: Path) -> None:
    content = bytearray((run / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (run / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="expected the weights that report.json beside them describes"):
        check_weights(run / WEIGHTS)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": 3}', '{"weights": {"file": "model.safetensors"}}'])
def test_without_a_digest_nothing_is_checked_and_that_is_said(run: Path, content: str) -> None:
    (run / "report.json").write_text(content)
    assert check_weights(run / WEIGHTS) == "not checked: no report.json with their digest beside them"
    (run / "report.json").unlink()
    assert check_weights(run / WEIGHTS) == "not checked: no report.json with their digest beside them"


def test_another_file(run: Path) -> None:
    (run / "mine.safetensors").write_bytes(b"")
    assert check_weights(run / "mine.safetensors") == f"not checked: report.json beside them is of {WEIGHTS}"


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("mtl_accum.training.checkpoint._weights.save_model", full)
    with pytest.raises(OSError, match=rf"{tmp_path}/{WEIGHTS}: could not be written \(No space left on device"):
        save_weights(torch.nn.Linear(2, 2), tmp_path)
    assert not list(tmp_path.iterdir())
