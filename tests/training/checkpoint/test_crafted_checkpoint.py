"""A checkpoint that somebody has made up runs nothing, reads nothing outside of its folder, and never hangs."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mtl_accum.training.checkpoint import CheckpointError, collect, restore
from mtl_accum.training.checkpoint._digests import digest_of_file
from mtl_accum.training.checkpoint._folder import list_checkpoints, newest_checkpoint
from mtl_accum.training.checkpoint._store import load, save
from tests.training.checkpoint.files import TENSOR_FILE, sign

ONE = {"w": torch.ones(2, 3)}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return save(tmp_path / "step-1", ONE, {"step": 1})


@contextmanager
def in_time(seconds: int = 10) -> Iterator[None]:
    """End what hangs."""

    def late(*_: Any) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _signed(folder: Path, **changes: Any) -> None:
    """Every digest is right: whoever makes up the tensors makes up the rest."""
    digests = {path.name: digest_of_file(path) for path in folder.glob("*.safetensors") if path.is_file()}
    sign(folder, **{"files": digests, **changes})


def _part(folder: Path, number: int, tensor: Tensor, offset: list[int | str | None]) -> None:
    info = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": offset}})}
    save_file({"w": tensor}, folder / f"part-{number}.safetensors", metadata=info)


def parts(*placed: Any, shape: tuple[int, int] = (2, 3)) -> Callable[..., Any]:
    """A tensor in parts, each with its offset."""

    def craft(folder: Path) -> None:
        (folder / TENSOR_FILE).unlink()
        for number, (tensor, offset) in enumerate(placed):
            _part(folder, number, tensor, offset)
        _signed(folder, tensors={"w": {"dtype": "float32", "shape": list(shape)}})

    return craft


def signed(**changes: Any) -> Callable[..., Any]:
    return lambda folder: _signed(folder, **changes)


def replaced(make: Any) -> Callable[..., Any]:
    """Something else in place of the tensors' file, whose digest is as it was."""

    def craft(folder: Path) -> None:
        (folder / TENSOR_FILE).rename(folder.parent / "elsewhere.safetensors")
        make(folder / TENSOR_FILE)

    return craft


def named(name: Any) -> Callable[..., Any]:
    """A digest of a file elsewhere."""

    def craft(folder: Path) -> None:
        save_file(ONE, folder.parent / "other.safetensors")
        sign(folder, files={TENSOR_FILE: digest_of_file(folder / TENSOR_FILE), name: "0" * 64})

    return craft


def extra(folder: Path) -> None:
    save_file({"v": torch.ones(1)}, folder / "extra.safetensors")


def state(content: Any) -> Callable[..., Any]:
    return lambda folder: (folder / "state.json").write_text(content)


ROW = torch.ones(1, 3)
CRAFTS = {
    "a gap": (parts((ROW, [1, 0])), "gaps or overlap"),
    "a gap in the middle": (parts((ROW, [0, 0]), (ROW, [2, 0]), shape=(3, 3)), "gaps or overlap"),
    "a part twice": (parts((ROW, [0, 0]), (ROW, [0, 0]), (ROW, [2, 0]), shape=(3, 3)), "gaps or overlap"),
    "a gap and an overlap": (
        parts((torch.ones(2, 2), [0, 0]), (torch.ones(1, 2), [1, 1]), shape=(2, 3)),
        "gaps or overlap",
    ),
    "a negative place": (parts((ROW, [-1, 0]), (ROW, [1, 0])), "gaps or overlap|expected float32"),
    "a terabyte": (parts((ROW, [1 << 40, 0]), shape=((1 << 40) + 1, 3)), "gaps or overlap"),
    "a place that is none": (parts((ROW, ["x", None])), "cannot be read"),
    "more than was said": (parts((torch.ones(4, 3), [0, 0])), r"expected float32 \[2, 3\], its files hold float32 \[4"),
    "another dtype": (signed(tensors={"w": {"dtype": "int32", "shape": [2, 3]}}), "expected int32"),
    "another name": (
        signed(tensors={"v": {"dtype": "float32", "shape": [2, 3]}}),
        "tensor 'v': .* its files hold none",
    ),
    "no digests": (signed(files={}), "is no file of this checkpoint"),
    "nothing at all": (signed(files={}, tensors={}), "is no file of this checkpoint"),
    "digests of another kind": (signed(files=[TENSOR_FILE]), "cannot be read"),
    "a file more": (extra, "'extra.safetensors' is no file of this checkpoint"),
    "above": (named("../other.safetensors"), "'../other.safetensors' is no file of this checkpoint"),
    "absolute": (named("/dev/zero"), "'/dev/zero' is no file of this checkpoint"),
    "a fifo": (replaced(os.mkfifo), "is no file"),
    "a folder": (replaced(os.mkdir), "is no file"),
    "a link": (replaced(lambda path: path.symlink_to("../elsewhere.safetensors")), "is a link, expected a file"),
    "a link to a device": (replaced(lambda path: path.symlink_to("/dev/zero")), "is a link, expected a file"),
    "a list": (state("[]"), "cannot be read"),
    "a number": (state("3"), "cannot be read"),
    "no version": (state("{}"), "cannot be read"),
    "no JSON": (state("\x00\xff"), "cannot be read"),
    "too deep": (state("[" * 200_000), "cannot be read"),
}


@pytest.mark.parametrize(("craft", "message"), CRAFTS.values(), ids=CRAFTS)
def test_what_somebody_made_up_is_refused_in_a_line(written: Path, craft: Callable[..., Any], message: str) -> None:
    craft(written)
    with in_time(), pytest.raises(CheckpointError, match=message) as error:
        load(written)
    assert "\n" not in str(error.value)


def test_the_crafts_are_right_but_for_one_thing(written: Path) -> None:
    parts((ROW, [0, 0]), (2 * ROW, [1, 0]))(written)
    assert load(written).tensors["w"].tolist() == [[1.0] * 3, [2.0] * 3]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_state_that_is_no_file_is_no_checkpoint(written: Path, make: Callable[..., Any]) -> None:
    (written / "state.json").unlink()
    make(written / "state.json")
    with in_time():
        assert list_checkpoints(written.parent) == []
        with pytest.raises(CheckpointError):
            load(written)


def test_nothing_is_unpickled(written: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    content = pickle.dumps(Evil())
    for name in (".metadata", "__0_0.distcp", "model.safetensors.index.json"):
        (written / name).write_bytes(content)
    assert load(written).tensors.keys() == ONE.keys()
    (written / TENSOR_FILE).write_bytes(content)
    _signed(written)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(written)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists(), "the file would have done it"


ANYTHING = (  # type: ignore[var-annotated]
    *(None, True, -1, 1e308, "", "../x", [], {}, [[]]),
    *({"$tensor": "gone"}, {"$array": ["w", "O"]}, {"$items": 3}, {"$complex": "model/weight"}),
    *({"$tuple": None}, {"$counter": [[1]]}),
)


def _mutated(value: Any, generator: Any) -> Any:
    """The same with something else at a random place."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or generator.random() < 0.2:
        return json.loads(json.dumps(generator.choice(ANYTHING)))
    key = generator.choice(keys)
    value[key] = _mutated(value[key], generator)
    return value


def test_a_state_with_anything_in_it_is_a_line(tmp_path: Path) -> None:
    generator = random.Random(0)
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = save(tmp_path / "step-1", *collect(net, optimizer, {"position": {"step": 1}}))
    original = json.loads((path / "state.json").read_text())
    messages = []
    for _ in range(300):
        (path / "state.json").write_text(json.dumps(original))
        changed = _mutated(json.loads(json.dumps(original)), generator)
        sign(path, **(changed if isinstance(changed, dict) else {"state": changed}))
        try:
            with in_time():
                restore(net, optimizer, *load(path)[1:])
        except ValueError as error:  # a CheckpointError is one
            messages.append(str(error))
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("when", ["read_metadata", "read_data", "write_data", "finish_plan"])
def test_ctrl_c_is_not_swallowed(written: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """DCP wraps it into an exception of its own."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter  # type: ignore[attr-defined]

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    writes = when in ("write_data", "finish_plan")
    if when == "finish_plan":
        monkeypatch.setattr("torch.distributed.checkpoint.DefaultSavePlanner.finish_plan", interrupt)
    else:
        monkeypatch.setattr(HuggingFaceStorageWriter if writes else HuggingFaceStorageReader, when, interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(written.parent / "step-2", ONE, {}) if writes else newest_checkpoint(written.parent)
    assert [path.name for path in written.parent.iterdir()] == ["step-1"]


@pytest.mark.parametrize("moment", ["json.dump", "os.fsync", "os.replace", "shutil.rmtree"])
def test_ctrl_c_in_a_write_leaves_what_was_there(written: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(written, {"w": torch.zeros(2, 3)}, {"step": 1})
    assert load(written).tensors["w"].sum() in (6, 0)
