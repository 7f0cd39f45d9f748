"""Checkpoints: whole or not there, nothing unpickled that is not DCP's, the one before where one is damaged."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch

from mtl_accum.training import _checkpoint
from mtl_accum.training._checkpoint import CheckpointError, Checkpoints, all_of, load, newest, save
from mtl_accum.training._encode import decode, encode
from mtl_accum.training._safe_reader import SafeReader, UnsafeCheckpointError

TENSORS = {
    "model/weight": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "optimizer/0/step": torch.tensor(3.0),
    "half": torch.ones(4, dtype=torch.bfloat16),
    "random": torch.arange(7, dtype=torch.uint8),
    "nothing": torch.empty(0, 2),
    "channels": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    ),
}


@pytest.fixture
def written(tmp_path):
    return save(tmp_path / "step-1", TENSORS, {"step": 1, "lr": 0.1, "name": "ü"})


def test_comes_back_bit_for_bit(written):
    _, tensors, values = load(written)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert (values["step"], values["lr"], values["name"]) == (1, 0.1, "ü")
    assert {path.name for path in written.iterdir()} == {".metadata", "__0_0.distcp", "state.json"}
    assert [path.name for path in written.parent.iterdir()] == ["step-1"], "nothing is left aside"


def test_any_state_comes_back():
    random.seed(3)
    np.random.seed(3)
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "optimizer": {"state": {0: {"step": torch.tensor(2.0), "old": [torch.ones(2), None]}}, "lr": 1e-3},
        "scheduler": {"milestones": {3: 1}, "best": float("inf"), "last": [0.1]},
        "$tensor": "a name like ours",
        "floats": np.array([0.1, 1e-300]),
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
    with pytest.raises(TypeError, match="state/a/0: a checkpoint holds tensors, .*; found object"):
        encode({"a": [object()]}, "state")


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def _sign(folder, state):
    state.pop("sha256", None)
    (folder / "state.json").write_text(json.dumps({**state, "sha256": _checkpoint._digest_of(state)}))


def test_a_crafted_file_runs_nothing(written, tmp_path):
    ran = tmp_path / "ran"
    (written / ".metadata").write_bytes(pickle.dumps(Evil(ran)))
    with pytest.raises(CheckpointError, match=r"\.metadata is cut off or was changed after it was written"):
        load(written)
    state = json.loads((written / "state.json").read_text())
    state["files"] = {}
    _sign(written, state)  # whoever crafts the one crafts the other
    with pytest.raises(CheckpointError, match=r"its metadata refers to posix.mkdir, which no checkpoint of tensors"):
        load(written)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Evil(ran)))
    assert ran.exists(), "the file would have done it"


def test_a_crafted_file_changes_no_class(written):
    from torch.distributed.checkpoint.metadata import Metadata

    # GLOBAL, then BUILD with a slot state: what a pickle of no object would say
    evil = b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\nN}X\x04\x00\x00\x00evilK\x01s\x86b."
    (written / ".metadata").write_bytes(evil)
    with pytest.raises(UnsafeCheckpointError, match="its metadata sets attributes of a type"):
        SafeReader(written).read_metadata()
    assert not hasattr(Metadata, "evil")


def test_every_figure_in_the_json_counts(written):
    text = (written / "state.json").read_text()
    (written / "state.json").write_text(text.replace('"lr": 0.1', '"lr": 0.9'))
    with pytest.raises(CheckpointError, match=r"state.json was changed after it was written"):
        load(written)


def test_counters_and_names_alike_come_back():
    state = {"c": Counter({3: 2}), "a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    tensors, made = encode(state, "s")
    found = decode(json.loads(json.dumps(made)), tensors)
    assert sorted(found["c"].elements()) == [3, 3]
    assert (float(found["a/b"]), float(found["a"]["b"])) == (0.0, 1.0)


def test_objects_that_are_no_tensors_are_refused(tmp_path):
    """DCP would unpickle them without looking."""
    from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

    with pytest.warns(UserWarning, match="single process"):
        dcp_save(
            {"evil": Evil(tmp_path / "ran"), "fine": torch.ones(1)}, checkpoint_id=tmp_path / "step-1", no_dist=True
        )
    _sign(tmp_path / "step-1", {"version": _checkpoint.VERSION, "files": {}})
    with pytest.raises(CheckpointError, match=r"BytesStorageMetadata, which no checkpoint of tensors has"):
        load(tmp_path / "step-1")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["../elsewhere", "/etc/passwd", "a/b"])
def test_files_elsewhere_are_refused(written, place):
    metadata = SafeReader(written).read_metadata()
    index, info = next(iter(metadata.storage_data.items()))
    info.relative_path = place
    metadata.storage_meta = None
    (written / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UnsafeCheckpointError, match=f"{index.fqn} lies outside of its folder"):
        SafeReader(written).read_metadata()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state.json"])
def test_a_damaged_one_is_one_line_and_the_one_before_is_used(tmp_path, caplog, name, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.write(step, TENSORS, {"step": step})
    damage(tmp_path / "step-0000000002" / name)
    gone = not (tmp_path / "step-0000000002" / "state.json").exists()
    if not gone:
        with pytest.raises(CheckpointError) as error:
            load(tmp_path / "step-0000000002")
        assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        path, tensors, values = newest(tmp_path)
    assert (path.name, values["step"]) == ("step-0000000001", 1)
    said = [record for record in caplog.records if record.name.startswith("mtl_accum")]
    assert len(said) == (0 if gone else 1)
    assert torch.equal(tensors["model/weight"], TENSORS["model/weight"])


def test_none_can_be_read(tmp_path):
    assert newest(tmp_path) is None
    Checkpoints(tmp_path).write(1, TENSORS, {})
    _cut(tmp_path / "step-0000000001" / ".metadata")
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints can be read"):
        newest(tmp_path)


def test_the_last_few_and_the_best_one_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 7):
        checkpoints.write(step, {"x": torch.ones(1)}, {}, best=step in (1, 2))
    assert [path.name[-1] for path in all_of(tmp_path)] == ["2", "5", "6"]
    with pytest.raises(ValueError, match="checkpoint.keep"):
        Checkpoints(tmp_path, keep=0)


def test_another_process_knows_the_best_one_and_forgets_what_came_later(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.write(step, {"x": torch.ones(1)}, {}, best=step == 1)
    Checkpoints(tmp_path, keep=2).write(5, {"x": torch.ones(1)}, {})
    assert [path.name[-1] for path in all_of(tmp_path)] == ["1", "4", "5"]
    Checkpoints(tmp_path, keep=2).write(3, {"x": torch.ones(1)}, {})  # went on from before 4
    assert [path.name[-1] for path in all_of(tmp_path)] == ["1", "3"]


def test_a_run_that_begins_anew_replaces_what_is_there(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (2, 4, 6):
        checkpoints.write(step, {"x": torch.ones(1)}, {}, best=step == 2)
    again = Checkpoints(tmp_path, keep=3, anew=True)
    again.write(4, {"x": torch.zeros(1)}, {})
    assert [path.name[-1] for path in all_of(tmp_path)] == ["4"]
    again.write(5, {"x": torch.zeros(1)}, {})
    assert [path.name[-1] for path in all_of(tmp_path)] == ["4", "5"]


def test_the_same_step_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for value in (1.0, 2.0):
        checkpoints.write(3, {"x": torch.tensor(value)}, {})
    assert load(*all_of(tmp_path)).tensors["x"] == 2


def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = checkpoints.write(1, TENSORS, {"step": 1})
    real = os.replace

    def full(*_):
        raise OSError(28, "No space left on device")

    for name, function in (("os.replace", full), ("json.dump", full), ("torch.save", full)):
        with monkeypatch.context() as patch:
            patch.setattr(name, function)
            with pytest.raises(CheckpointError, match="step-0000000002: could not be written .*No space left"):
                checkpoints.write(2, TENSORS, {"step": 2})
        assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert os.replace is real
    assert load(first).values["step"] == 1


def test_an_unknown_version(written):
    state = json.loads((written / "state.json").read_text())
    (written / "state.json").write_text(json.dumps({**state, "version": 99}))
    with pytest.raises(CheckpointError, match=f"expected a checkpoint of version {_checkpoint.VERSION}, found 99"):
        load(written)
