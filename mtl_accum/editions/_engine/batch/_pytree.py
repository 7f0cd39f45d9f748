"""Pytrees: nested containers of tensors, flattened and rebuilt.

Built on `torch.utils._pytree`, in which Hugging Face registers its outputs too.
"""

from __future__ import annotations

import dataclasses
from collections import UserDict
from numbers import Number
from typing import Any

from torch import Tensor

from mtl_accum import _torch_pytree as pytree
from mtl_accum.editions._engine.batch._refusals import unknown_container

__all__ = ["Batched", "PerSample", "TreeSpec", "children", "flatten", "flatten_any", "leaves", "paths", "unflatten"]

TreeSpec = pytree.TreeSpec
_LEAF = pytree.tree_structure(None)  # of a single leaf, whatever it is
_OPAQUE = (Tensor, Number, str, bytes, type(None))


class PerSample(list[Any]):
    """A list in a batch with an entry per sample: ragged boxes, captions, sizes of images.

    A plain list with as many entries as the batch has samples is treated the same, unless every tensor in it has as
    many rows too (4 images of 4 boxes): such a list must be wrapped in this class or in `Batched`.
    """


class Batched(list[Any]):
    """A list in a batch of tensors that each have all samples in dimension 0: feature maps, views.

    A plain list whose tensors have as many rows as the batch has samples is treated the same, unless it has as many
    entries too (4 maps of 4 samples): such a list must be wrapped in this class or in `PerSample`.
    """


def _register_list(kind: type[list[Any]]) -> None:
    def with_keys(values: list[Any]) -> tuple[list[Any], Any]:
        return [(pytree.SequenceKey(index), value) for index, value in enumerate(values)], None

    pytree.register_pytree_node(
        kind, lambda values: (list(values), None), lambda values, _: kind(values), flatten_with_keys_fn=with_keys
    )


_register_list(PerSample)
_register_list(Batched)


def flatten(tree: Any, what: str) -> tuple[list[Any], TreeSpec]:
    """Flatten a container into its leaves and its structure.

    Args:
        tree: Any nesting of registered containers.
        what: Name of the container in the error message.

    Raises:
        TypeError: A leaf is neither a tensor nor a number, string, bytes or None. An unregistered container would be
            one leaf, with its tensors and their graph inside.
    """
    if isinstance(tree, Tensor):
        return [tree], _LEAF
    values, spec = pytree.tree_flatten(tree)
    unknown = [leaf for leaf in values if not isinstance(leaf, _OPAQUE)]
    if not unknown:
        return values, spec
    if not sum(_register(kind) for kind in {type(leaf) for leaf in unknown}):
        raise TypeError(_refusal(tree, what))
    return flatten(tree, what)


def flatten_any(tree: Any) -> tuple[list[Any], TreeSpec]:
    """Flatten a container as `flatten` does, with unknown objects (a module, a function) as leaves."""
    try:
        return flatten(tree, "")
    except TypeError:
        return pytree.tree_flatten(tree)


def unflatten(values: list[Any], spec: TreeSpec) -> Any:
    """Rebuild a container from its leaves and its structure."""
    return values[0] if spec is _LEAF else pytree.tree_unflatten(values, spec)


def children(tree: Any, what: str) -> tuple[list[tuple[str, Any]], TreeSpec]:
    """Flatten a container by one level.

    Args:
        tree: Container, or a leaf, which is its own only child.
        what: Expression that leads to the container.

    Returns:
        Each child with the expression that leads to it, such as `batch['image']`, and the structure.

    Raises:
        TypeError: The tree is neither a registered container nor a tensor, number, string, bytes or None.
    """
    pairs, spec = pytree.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
    if len(pairs) == 1 and pairs[0][1] is tree and not isinstance(tree, _OPAQUE):
        if not _register(type(tree)):
            raise TypeError(_refusal(tree, what))
        return children(tree, what)
    return [(what + pytree.keystr(path), child) for path, child in pairs], spec


def paths(tree: Any, what: str) -> list[tuple[str, Any]]:
    """Return the leaves of a container with the expressions that lead to them; unknown containers are leaves."""
    return [(what + pytree.keystr(path), leaf) for path, leaf in pytree.tree_leaves_with_path(tree)]


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of a container; unknown containers are leaves."""
    values: list[Any] = pytree.tree_leaves(tree)
    return values


def _register(kind: type) -> bool:
    """Register a dataclass or a `UserDict` (Hugging Face's `BatchEncoding`); return False for any other class."""
    if issubclass(kind, UserDict):
        pytree.register_pytree_node(
            kind, _take_user_dict, _make_user_dict, flatten_with_keys_fn=_take_user_dict_with_keys
        )
        return True
    if dataclasses.is_dataclass(kind):
        pytree.register_pytree_node(
            kind, _take_dataclass, _make_dataclass, flatten_with_keys_fn=_take_dataclass_with_keys
        )
        return True
    return False


def _take_user_dict(mapping: Any) -> tuple[list[Any], Any]:
    others = {name: value for name, value in vars(mapping).items() if name != "data"}
    return list(mapping.data.values()), (type(mapping), tuple(mapping.data), others)


def _take_user_dict_with_keys(mapping: Any) -> tuple[list[Any], Any]:
    children, context = _take_user_dict(mapping)
    return [(pytree.MappingKey(key), child) for key, child in zip(mapping.data, children, strict=True)], context


def _make_user_dict(children: Any, context: Any) -> Any:
    kind, keys, others = context
    made = object.__new__(kind)
    vars(made).update(others, data=dict(zip(keys, children, strict=True)))
    return made


def _take_dataclass(record: Any) -> tuple[list[Any], Any]:
    names = tuple(field.name for field in dataclasses.fields(record))
    others = {name: value for name, value in getattr(record, "__dict__", {}).items() if name not in names}
    return [getattr(record, name) for name in names], (type(record), names, others)


def _take_dataclass_with_keys(record: Any) -> tuple[list[Any], Any]:
    children, context = _take_dataclass(record)
    return [(pytree.GetAttrKey(name), child) for name, child in zip(context[1], children, strict=True)], context


def _make_dataclass(children: Any, context: Any) -> Any:
    kind, names, others = context
    made = object.__new__(kind)  # not kind(...): fields may be init=False, and __post_init__ has run already
    for name, value in (*others.items(), *zip(names, children, strict=True)):
        object.__setattr__(made, name, value)  # frozen dataclasses too
    return made


def _refusal(tree: Any, what: str) -> str:
    for path, leaf in pytree.tree_leaves_with_path(tree):
        if not isinstance(leaf, _OPAQUE):
            return unknown_container(what + pytree.keystr(path), leaf)
    raise AssertionError("unreachable: called with a tree that holds an unknown leaf")
