"""Encoding of nested state as tensors and JSON: a checkpoint holds no pickled objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["decode", "encode"]

# Each is the only key of a JSON object that encodes something else than a dict with strings as keys.
_KINDS = {"$tensor", "$complex", "$array", "$tuple", "$items", "$counter"}


def encode(state: Any, name: str) -> tuple[dict[str, Tensor], Any]:
    """Encode a state as tensors and JSON.

    Args:
        state: Any nesting of dicts, lists and tuples of tensors, numpy arrays, numbers, strings and None.
        name: Name of the state; the tensors' names begin with it.

    Returns:
        The tensors by name, and a value that JSON can hold, with references to them.

    Raises:
        TypeError: The state holds anything else; names its place.
    """
    tensors: dict[str, Tensor] = {}

    def add(tensor: Tensor, place: str) -> str:
        while place in tensors:  # the key "a/b", and "b" in "a", have the same place
            place += "'"
        tensors[place] = tensor
        return place

    def visit(value: Any, place: str) -> Any:
        encoded: Any
        if value is None or isinstance(value, bool | int | float | str):
            encoded = value
        elif isinstance(value, Tensor) and value.is_complex():  # safetensors has no complex128
            encoded = {"$complex": add(torch.view_as_real(value.detach().resolve_conj()), place)}
        elif isinstance(value, Tensor):
            encoded = {"$tensor": add(value.detach(), place)}
        elif isinstance(value, list | tuple):
            items = [visit(inner, f"{place}/{index}") for index, inner in enumerate(value)]
            encoded = {"$tuple": items} if isinstance(value, tuple) else items
        elif isinstance(value, Mapping):
            pairs = [(key, visit(inner, f"{place}/{key}")) for key, inner in value.items()]
            plain = all(isinstance(key, str) for key in value) and _KINDS.isdisjoint(value)
            kind = "$counter" if isinstance(value, Counter) else "$items"
            encoded = dict(pairs) if plain and kind == "$items" else {kind: pairs}
        elif type(value).__module__ == "numpy" and hasattr(value, "dtype"):
            numbers = torch.tensor(value.tolist(), dtype=torch.float64 if value.dtype.kind == "f" else None)
            encoded = {"$array": [add(numbers, place), str(value.dtype)]}
        else:
            raise TypeError(
                f"{place}: a checkpoint holds tensors, numbers, strings and their containers; "
                f"found {type(value).__name__}"
            )
        return encoded

    encoded = visit(state, name)
    return tensors, encoded


def decode(encoded: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Decode what `encode` returned.

    Args:
        encoded: Value with references to tensors, as JSON holds it.
        tensors: Tensors by name.

    Raises:
        KeyError: A tensor is missing.
    """

    def visit(value: Any) -> Any:
        if isinstance(value, list):
            return [visit(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if _KINDS.isdisjoint(value):
            return {key: visit(inner) for key, inner in value.items()}
        [(kind, content)] = value.items()
        return decoders[kind](content)

    def array(content: Any) -> Any:
        import numpy

        return numpy.asarray(tensors[content[0]].tolist(), dtype=content[1])

    decoders: dict[str, Any] = {
        "$tensor": lambda name: tensors[name],
        "$complex": lambda name: torch.view_as_complex(tensors[name]),
        "$array": array,
        "$tuple": lambda items: tuple(map(visit, items)),
        "$items": lambda pairs: {key: visit(inner) for key, inner in pairs},
        "$counter": lambda pairs: Counter({key: visit(inner) for key, inner in pairs}),
    }
    return visit(encoded)
