"""Tensors of version 2 checkpoints: torch.distributed.checkpoint's own format, read without running its pickle."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtl_accum.training.checkpoint._digests import digest_of_file, open_regular

__all__ = ["VERSION_2", "read_tensors_of_version_2"]

VERSION_2 = 2
_METADATA = ".metadata"


def read_tensors_of_version_2(folder: Path, digests: Mapping[str, str]) -> dict[str, Tensor]:
    """Read the tensors that one process has written with `torch.distributed.checkpoint.save`.

    Args:
        folder: Folder of the checkpoint.
        digests: SHA-256 of every file, by name; no other file is opened.

    Returns:
        Whole tensors by name, on the CPU.

    Raises:
        ValueError: A file was changed, or the metadata does not describe whole tensors in these files.
        OSError: A file cannot be read.
    """
    contents = {name: _read(folder, name, digest) for name, digest in digests.items()}
    if _METADATA not in contents:
        raise ValueError(f"{_METADATA!r} has no digest")
    tensors = {}
    for index, entry in _storage(contents[_METADATA]):
        name, file, start, length = index["fqn"], entry["relative_path"], entry["offset"], entry["length"]
        if name in tensors or file not in contents or min(start, length) < 0:
            raise ValueError(f"tensor {name!r}: expected one whole tensor in a file of this checkpoint")
        tensors[name] = _tensor(name, contents[file][start : start + length])
    return tensors


def _read(folder: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no file of this checkpoint")
    if digest_of_file(folder / name) != digest:
        raise ValueError(f"{name} is cut off or was changed after it was written")
    with open_regular(folder / name) as file:
        return file.read()


def _tensor(name: str, content: bytes) -> Tensor:
    tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name!r}: expected a tensor, found a {type(tensor).__name__}")
    return tensor


class _Inert:
    """Inert stand-in for an object of the pickle: its class's name, and its state."""

    state: Any = None

    def __new__(cls, *args: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    """Unpickler that imports nothing: a new subclass of `_Inert` replaces every class and function."""

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Inert,), {})


def _storage(content: bytes) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the index of each tensor, and its file and position."""
    try:
        metadata = _InertUnpickler(io.BytesIO(content)).load()
        return [(index.state, entry.state) for index, entry in metadata.state["storage_data"].items()]
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"its metadata cannot be read ({type(error).__name__}: {error})") from None
