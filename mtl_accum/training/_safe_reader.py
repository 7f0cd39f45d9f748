"""Reading torch.distributed.checkpoint's files without trusting them: its own classes are unpickled, nothing else."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.serialization import _get_layout

__all__ = ["SafeReader", "UnsafeCheckpointError"]

_OURS = (ChunkStorageMetadata, Metadata, MetadataIndex, StorageMeta, TensorProperties, TensorStorageMetadata)
# What the metadata of a checkpoint of tensors consists of, by module and name; dtypes come on top.
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__qualname__): kind for kind in (*_OURS, _StorageInfo, _MEM_FORMAT_ENCODING, torch.Size)},
    ("torch.serialization", "_get_layout"): _get_layout,
    ("pathlib", "PosixPath"): lambda *parts: "/".join(map(str, parts)),  # where it was written; nobody asks
    ("pathlib", "WindowsPath"): lambda *parts: "/".join(map(str, parts)),
}
_INSTANCES = (*_OURS, _StorageInfo)
_FILE = re.compile(r"[\w-][\w.-]*")  # a file in the folder itself


class UnsafeCheckpointError(ValueError):
    """A checkpoint's metadata refers to something that no checkpoint of tensors has; nothing of it was run."""


_Python: Any = pickle._Unpickler  # the one whose opcodes are methods


class _Unpickler(_Python):  # type: ignore[misc]
    """Finds the classes of the list, and dtypes; what it does not find it does not import.

    BUILD sets attributes of whatever lies on the stack, classes too: here of instances of DCP's own classes only.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Python.dispatch)

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _INSTANCES):
            raise UnsafeCheckpointError(f"its metadata sets attributes of a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise UnsafeCheckpointError(f"its metadata refers to {module}.{name}, which no checkpoint of tensors has")


class SafeReader(FileSystemReader):
    """Reads tensors from files in a folder; raises before anything that a file contains could run.

    DCP unpickles `.metadata` (and objects that are no tensors), which runs what a crafted file says. Here only
    DCP's own classes are made from it, every entry must be a tensor's, and every file one in the folder.

    Args:
        path: the folder.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata.

        Raises:
            UnsafeCheckpointError: it is not that of a checkpoint of tensors in this folder.
            OSError: it cannot be read.
        """
        content = (Path(self.path) / ".metadata").read_bytes()
        try:
            metadata = _Unpickler(io.BytesIO(content)).load()
        except UnsafeCheckpointError:
            raise
        except Exception as error:  # a pickle that is cut off raises whatever it likes
            raise UnsafeCheckpointError(f"its metadata cannot be read ({error})") from None
        if not isinstance(metadata, Metadata):
            raise UnsafeCheckpointError(f"its metadata is a {type(metadata).__name__}")
        for name, entry in metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):
                raise UnsafeCheckpointError(f"{name} is no tensor")
        for index, place in (metadata.storage_data or {}).items():
            if not isinstance(place, _StorageInfo) or not _FILE.fullmatch(str(place.relative_path)):
                raise UnsafeCheckpointError(f"{getattr(index, 'fqn', index)} lies outside of its folder")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata
