"""Errors for values that a batch or a representation cannot contain, with the fix for each kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["refuse_uncuttable", "unknown_container"]

_ARRAY = "make it a tensor: torch.as_tensor(...), or torch's default collate_fn in the loader"
_GRAPHS = (
    "its nodes and edges do not lie along one dimension of samples. Split() and PerTask() take it whole as a batch; "
    "for less memory make loader batches smaller: OverBatches(Split()) adds up those of tasks with a count. A "
    "representation should be a dict of tensors"
)
_SPARSE = "its rows cannot be cut; use Split() on the whole batch, or hand over dense tensors (.to_dense())"
# By the package of a class or of one of its base classes.
_FIXES = {
    "numpy": _ARRAY,
    "pandas": "make it a tensor: torch.as_tensor(frame.to_numpy())",
    "PIL": "make it a tensor in the data set, e.g. by torchvision.transforms.functional.pil_to_tensor",
    "torch_geometric": _GRAPHS,
    "dgl": _GRAPHS,
    "torch_sparse": _SPARSE,
}


def unknown_container(path: str, value: Any) -> str:
    """Return the message for a value that is neither a tensor, number, string, bytes or None, nor a known container."""
    kind = type(value)
    return (
        f"{path}: expected a tensor, number, string, bytes or None, or a registered container of them; found "
        f"{kind.__module__}.{kind.__qualname__}; {_fix(value)}"
    )


def _fix(value: Any) -> str:
    packages = [base.__module__.partition(".")[0] for base in type(value).__mro__]
    for package in packages:
        if package in _FIXES:
            return _FIXES[package]
    if hasattr(value, "get_seq_length") or ("transformers" in packages and "Cache" in type(value).__name__):
        return "pass use_cache=False to the model: keys and values of past tokens are for generation"
    if isinstance(value, PackedSequence):
        return _PADDED
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return _ARRAY
    name = type(value).__qualname__
    return (
        "hand over a dict or tuple of its tensors, or register it: "
        f"torch.utils._pytree.register_pytree_node({name}, flatten, unflatten)"
    )


_PADDED = (
    "hand over padded tensors and lengths, and pack inside of the network: torch.nn.utils.rnn.pad_packed_sequence(..., "
    "batch_first=True)"
)


def refuse_uncuttable(path: str, value: Any) -> None:
    """Raise ValueError for a tensor or sequence whose samples are no slices of dimension 0."""
    if isinstance(value, PackedSequence):
        raise ValueError(f"{path}: to be cut, expected the samples in dimension 0, found a PackedSequence; {_PADDED}")
    if not isinstance(value, Tensor) or (value.layout is torch.strided and not value.is_nested):
        return
    layout = str(value.layout).removeprefix("torch.").removeprefix("_")
    if value.is_nested:
        raise ValueError(
            f"{path}: to be cut, expected a tensor with the samples in dimension 0; found a nested ({layout}) one, "
            "which torch cannot slice. Pad it (torch.nested.to_padded_tensor(..., 0.0)), hand over a list with a "
            "tensor a sample, or use Split() on the whole batch"
        )
    raise ValueError(f"{path}: to be cut, expected a dense tensor, found one of layout {layout}; {_SPARSE}")
