"""Tensors as safetensors files in a folder, through torch.distributed.checkpoint; nothing is pickled.

Several processes write files of their own, with the position of their parts; any number of processes can read them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

__all__ = ["SUFFIX", "Table", "read_tensors", "table_of", "write_tensors"]

SUFFIX = ".safetensors"
Table = dict[str, dict[str, Any]]  # dtype and shape by the tensors' names, as JSON holds them
_FILE_BYTES = 64 << 20  # a file is put together in memory, so files are small


def table_of(tensors: Mapping[str, Tensor]) -> Table:
    """Return the dtype and the shape of tensors by name."""
    return {name: _entry(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a folder.

    Args:
        folder: Existing folder; several processes may write into it.
        tensors: Tensors by name, on any device, in any memory format, sharing memory or not. Of a DTensor, each
            process writes its part.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
        KeyError: safetensors has no such dtype.
    """
    writer = HuggingFaceStorageWriter(str(folder), _file_of(tensors), save_distributed=True)
    with _plain_errors():
        dcp_save(dict(tensors), storage_writer=writer, planner=_Planner(), no_dist=not _distributed())


def read_tensors(folder: Path, table: Table) -> dict[str, Tensor]:
    """Read what `write_tensors` has written: whole tensors, on the CPU.

    Args:
        folder: Folder of the files; only files with the suffix `SUFFIX` are opened.
        table: Dtype and shape of the expected tensors.

    Raises:
        ValueError: The files hold other tensors, or a tensor's parts leave a gap, which would be uninitialized memory.
        SafetensorError: A file is cut off.
    """
    reader = HuggingFaceStorageReader(str(folder))
    entries: dict[str, TensorStorageMetadata] = reader.read_metadata().state_dict_metadata  # type: ignore[assignment]
    stored = {name: _entry(entry.properties.dtype, entry.size) for name, entry in entries.items()}
    for name in sorted(table.keys() | stored.keys()):
        if table.get(name) != stored.get(name):
            raise ValueError(
                f"tensor {name!r}: expected {_describe(table.get(name))}, its files hold {_describe(stored.get(name))}"
            )
        if not _tiled(entries[name].size, entries[name].chunks):
            raise ValueError(f"tensor {name!r}: its parts leave gaps or overlap")
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with _plain_errors():
        dcp_load(tensors, storage_reader=reader, no_dist=not _distributed())
    return tensors


class _Planner(DefaultSavePlanner):
    """Planner that copies each tensor when its file is written: safetensors needs contiguous memory of its own."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        return object.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _file_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Distribute tensors over files of limited size; returns the number of the file, from 1, by the tensor's name."""
    numbers, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > _FILE_BYTES:
            number, size = number + 1, 0
        numbers[name], size = number, size + tensor.nbytes
    return numbers


def _entry(dtype: torch.dtype, shape: torch.Size) -> dict[str, Any]:
    return {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}


def _describe(entry: Mapping[str, Any] | None) -> str:
    return "none" if entry is None else f"{entry['dtype']} {entry['shape']}"


def _tiled(size: torch.Size, chunks: list[ChunkStorageMetadata]) -> bool:
    """Return whether every element of a tensor is in exactly one chunk."""
    boxes = [list(zip(chunk.offsets, chunk.sizes, strict=True)) for chunk in chunks]
    placed = [(*part, end) for box in boxes for part, end in zip(box, size, strict=True)]
    inside = all(start >= 0 and start + length <= end for start, length, end in placed)
    complete = sum(math.prod(chunk.sizes) for chunk in chunks) == math.prod(size)
    return inside and complete and not any(_overlap(one, other) for one, other in combinations(boxes, 2))


def _overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(max(a, b) < min(a + length, b + width) for (a, length), (b, width) in pairs)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the cause of DCP's own exception in its place: DCP's is no `Exception`, and hides a Ctrl-C.

    DCP's warning about a single process is ignored: that is the usual case here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is", UserWarning)
        try:
            yield
        except CheckpointException as error:
            raise _cause(error) from None


def _cause(error: BaseException) -> BaseException:
    """Return what the processes raised: an interruption, if there is one, or else the first failure."""
    if not isinstance(error, CheckpointException) or not error.failures:
        return error
    causes = [_cause(inner) for inner, _ in error.failures.values()]
    return next((cause for cause in causes if not isinstance(cause, Exception)), causes[0])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
