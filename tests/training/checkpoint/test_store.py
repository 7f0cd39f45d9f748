"""Checkpoints: whole or not there, bit for bit, the one before where one is damaged."""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtl_accum.training.checkpoint import CheckpointError, CheckpointWriter, decode
from mtl_accum.training.checkpoint._codec import encode
from mtl_accum.training.checkpoint._folder import list_checkpoints, newest_checkpoint
from mtl_accum.training.checkpoint._store import VERSION, load, save
from tests.training.checkpoint.files import TENSOR_FILE

WEIGHT = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
TENSORS = {
    "model/weight": WEIGHT,
    "tied": WEIGHT,
    "view": WEIGHT.view(15),
    "part": WEIGHT[1:],
    "turned": WEIGHT.t(),
    "once": torch.ones(1).expand(4),
    "optimizer/0/step": torch.tensor(3.0),
    "half": torch.ones(4, dtype=torch.bfloat16),
    "random": torch.arange(7, dtype=torch.uint8),
    "mask": torch.tensor([True, False]),
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "bits": torch.tensor([float("nan"), -0.0, float("inf")]),
    "nothing": torch.empty(0, 2),
    "a name\nof $any |kind/`ü": torch.ones(1, dtype=torch.uint16),
    "channels": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    ),
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return save(tmp_path / "step-1", TENSORS, {"step": 1, "lr": 0.1, "name": "ü"})


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def test_comes_back_bit_for_bit(written: Path) -> None:
    _, tensors, values = load(written)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert _bytes(tensors[name]) == _bytes(tensor), name
    assert (values["step"], values["lr"], values["name"]) == (1, 0.1, "ü")
    assert {path.name for path in written.iterdir()} == {TENSOR_FILE, "state.json"}
    assert [path.name for path in written.parent.iterdir()] == ["step-1"], "nothing is left aside"


def test_any_state_comes_back() -> None:
    random.seed(3)
    np.random.seed(3)
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "optimizer": {"state": {0: {"step": torch.tensor(2.0), "old": [torch.ones(2), None]}}, "lr": 1e-3},
        "scheduler": {"milestones": {3: 1}, "best": float("inf"), "last": [0.1]},
        "$tensor": "a name like ours",
        "floats": np.array([0.1, 1e-300]),
        "waves": torch.tensor([1 + 2j, 3 - 1e-300j], dtype=torch.complex128),
    }
    tensors, written = encode(state, "state")
    found = decode(json.loads(json.dumps(written)), tensors)
    assert found["python"] == state["python"]
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    assert np.array_equal(np.random.get_state()[1], state["numpy"][1])
    assert torch.equal(found["optimizer"]["state"][0]["old"][0], torch.ones(2))
    assert found["scheduler"] == state["scheduler"]
    assert found["$tensor"] == "a name like ours"
    assert np.array_equal(found["floats"], state["floats"])
    assert found["floats"].dtype == np.float64
    assert torch.equal(found["waves"], state["waves"])
    with pytest.raises(TypeError, match="state/a/0: a checkpoint holds tensors, .*; found object"):
        encode({"a": [object()]}, "state")


def test_every_figure_in_the_json_counts(written: Path) -> None:
    text = (written / "state.json").read_text()
    (written / "state.json").write_text(text.replace('"lr": 0.1', '"lr": 0.9'))
    with pytest.raises(CheckpointError, match=r"state.json was changed after it was written"):
        load(written)


def test_counters_and_names_alike_come_back() -> None:
    state = {"c": Counter({3: 2}), "a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    tensors, made = encode(state, "s")
    found = decode(json.loads(json.dumps(made)), tensors)
    assert sorted(found["c"].elements()) == [3, 3]
    assert (float(found["a/b"]), float(found["a"]["b"])) == (0.0, 1.0)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Any) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
@pytest.mark.parametrize("name", [TENSOR_FILE, "state.json"])
def test_a_damaged_one_is_one_line_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[..., Any]
) -> None:
    checkpoints = CheckpointWriter(tmp_path)
    for step in (1, 2):
        checkpoints.write(step, TENSORS, {"step": step})
    damage(tmp_path / "step-0000000002" / name)
    gone = not (tmp_path / "step-0000000002" / "state.json").exists()
    if not gone:
        with pytest.raises(CheckpointError) as error:
            load(tmp_path / "step-0000000002")
        assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        path, tensors, values = newest_checkpoint(tmp_path)  # type: ignore[misc]
    assert (path.name, values["step"]) == ("step-0000000001", 1)
    said = [record for record in caplog.records if record.name.startswith("mtl_accum")]
    assert len(said) == (0 if gone else 1)
    assert torch.equal(tensors["model/weight"], TENSORS["model/weight"])


def test_none_can_be_read(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    CheckpointWriter(tmp_path).write(1, TENSORS, {})
    _cut(tmp_path / "step-0000000001" / TENSOR_FILE)
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints can be read"):
        newest_checkpoint(tmp_path)


def test_the_last_few_and_the_best_one_stay(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path, keep=2)
    for step in range(1, 7):
        checkpoints.write(step, {"x": torch.ones(1)}, {}, best=step in (1, 2))
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "5", "6"]
    with pytest.raises(ValueError, match="checkpoint.keep"):
        CheckpointWriter(tmp_path, keep=0)


def test_another_process_knows_the_best_one_and_forgets_what_came_later(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.write(step, {"x": torch.ones(1)}, {}, best=step == 1)
    CheckpointWriter(tmp_path, keep=2).write(5, {"x": torch.ones(1)}, {})
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["1", "4", "5"]
    CheckpointWriter(tmp_path, keep=2).write(3, {"x": torch.ones(1)}, {})  # went on from before 4
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["1", "3"]


def test_a_run_that_begins_anew_replaces_what_is_there(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path, keep=3)
    for step in (2, 4, 6):
        checkpoints.write(step, {"x": torch.ones(1)}, {}, best=step == 2)
    again = CheckpointWriter(tmp_path, keep=3, overwrite=True)
    again.write(4, {"x": torch.zeros(1)}, {})
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["4"]
    again.write(5, {"x": torch.zeros(1)}, {})
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["4", "5"]


def test_the_same_step_again(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path)
    for value in (1.0, 2.0):
        checkpoints.write(3, {"x": torch.tensor(value)}, {})
    assert load(*list_checkpoints(tmp_path)).tensors["x"] == 2


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = CheckpointWriter(tmp_path, keep=1)
    first = checkpoints.write(1, TENSORS, {"step": 1})
    real = os.replace

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for name, function in (("os.replace", full), ("json.dump", full), ("os.fsync", full)):
        with monkeypatch.context() as patch:
            patch.setattr(name, function)
            with pytest.raises(CheckpointError, match="step-0000000002: could not be written .*No space left"):
                checkpoints.write(2, TENSORS, {"step": 2})
        assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert os.replace is real
    assert load(first).values["step"] == 1


def test_an_unknown_version(written: Path) -> None:
    state = json.loads((written / "state.json").read_text())
    (written / "state.json").write_text(json.dumps({**state, "version": 99}))
    with pytest.raises(CheckpointError, match=f"expected a checkpoint of version {VERSION}, found 99"):
        load(written)
