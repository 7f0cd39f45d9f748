"""Checkpoints of version 2: read as they are, and nothing in their pickle is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from mtl_accum.training.checkpoint import CheckpointError, checkpoint_at
from mtl_accum.training.checkpoint._digests import digest_of_file, digest_of_values

WRITTEN = Path(__file__).parents[2] / "earlier_runs/f7790fd/stopped/checkpoints/step-0000000005"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / WRITTEN.name))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def sign(folder: Path) -> None:
    """Write the right digests: whoever makes up one file makes up the other."""
    values = json.loads((folder / "state.json").read_text())
    del values["sha256"]
    values["files"] = {name: digest_of_file(folder / name) for name in values["files"]}
    (folder / "state.json").write_text(json.dumps({**values, "sha256": digest_of_values(values)}))


def test_it_is_read(written: Path) -> None:
    checkpoint = checkpoint_at(written)
    assert checkpoint is not None
    assert checkpoint.tensors["model/trunk.module.stem.0.weight"].shape == (4, 1, 3, 3)
    assert checkpoint.values["state"]["position"]["step"] == 5


@pytest.mark.parametrize("inside", [False, True])
def test_a_crafted_pickle_runs_nothing(written: Path, tmp_path: Path, inside: bool) -> None:
    evil = Evil(tmp_path / "ran")
    (written / ".metadata").write_bytes(pickle.dumps([evil] if inside else evil))
    sign(written)
    with pytest.raises(CheckpointError, match="its metadata cannot be read"):
        checkpoint_at(written)
    assert not evil.path.exists()
    pickle.loads((written / ".metadata").read_bytes())
    assert evil.path.exists(), "the file would have done it"


def test_a_pickle_in_place_of_a_tensor_runs_nothing(written: Path, tmp_path: Path) -> None:
    content = pickle.dumps(Evil(tmp_path / "ran"))
    file = written / "__0_0.distcp"
    file.write_bytes(content * (file.stat().st_size // len(content)))
    sign(written)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint_at(written)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_changed_file_is_refused(written: Path, name: str) -> None:
    content = bytearray((written / name).read_bytes())
    content[len(content) // 2] ^= 1
    (written / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is cut off or was changed after it was written"):
        checkpoint_at(written)
