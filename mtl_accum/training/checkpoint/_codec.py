"""State of any shape as tensors and JSON, and back: nothing in a checkpoint is a pickled object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["decode", "encode"]

# the only key of a JSON object that stands for something else
_KINDS = {"$tensor", "$complex", "$array", "$tuple", "$items", "$counter"}


def encode(state: Any, place: str) -> tuple[dict[str, Tensor], Any]:
    """Take a state apart.

    Args:
        state: any nesting of dicts, lists and tuples of tensors, numpy arrays, numbers, strings and None.
        place: its name; the tensors' names begin with it.

    Returns:
        The tensors by name; and what JSON can hold, with references to them.

    Raises:
        TypeError: it has something else in it; names the place.
    """
    tensors: dict[str, Tensor] = {}

    def keep(tensor: Tensor, place: str) -> str:
        name = place
        while name in tensors:  # "a/b" is a name, and "b" in "a" is another
            name += "'"
        tensors[name] = tensor
        return name

    def visit(value: Any, place: str) -> Any:
        written: Any
        if value is None or isinstance(value, bool | int | float | str):
            written = value
        elif isinstance(value, Tensor) and value.is_complex():  # safetensors has no complex128
            written = {"$complex": keep(torch.view_as_real(value.detach().resolve_conj()), place)}
        elif isinstance(value, Tensor):
            written = {"$tensor": keep(value.detach(), place)}
        elif isinstance(value, list | tuple):
            items = [visit(inner, f"{place}/{index}") for index, inner in enumerate(value)]
            written = {"$tuple": items} if isinstance(value, tuple) else items
        elif isinstance(value, Mapping):
            pairs = [(key, visit(inner, f"{place}/{key}")) for key, inner in value.items()]
            plain = all(isinstance(key, str) for key in value) and _KINDS.isdisjoint(value)
            kind = "$counter" if isinstance(value, Counter) else "$items"
            written = dict(pairs) if plain and kind == "$items" else {kind: pairs}
        elif type(value).__module__ == "numpy" and hasattr(value, "dtype"):
            numbers = torch.tensor(value.tolist(), dtype=torch.float64 if value.dtype.kind == "f" else None)
            written = {"$array": [keep(numbers, place), str(value.dtype)]}
        else:
            raise TypeError(
                f"{place}: a checkpoint holds tensors, numbers, strings and their containers; "
                f"found {type(value).__name__}"
            )
        return written

    written = visit(state, place)
    return tensors, written


def decode(written: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `encode` has taken apart.

    Raises:
        KeyError: a tensor is missing.
    """

    def visit(value: Any) -> Any:
        if isinstance(value, list):
            return [visit(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if _KINDS.isdisjoint(value):
            return {key: visit(inner) for key, inner in value.items()}
        [(kind, content)] = value.items()
        return meanings[kind](content)

    def array(content: Any) -> Any:
        import numpy

        return numpy.asarray(tensors[content[0]].tolist(), dtype=content[1])

    meanings: dict[str, Any] = {
        "$tensor": lambda name: tensors[name],
        "$complex": lambda name: torch.view_as_complex(tensors[name]),
        "$array": array,
        "$tuple": lambda items: tuple(map(visit, items)),
        "$items": lambda pairs: {key: visit(inner) for key, inner in pairs},
        "$counter": lambda pairs: Counter({key: visit(inner) for key, inner in pairs}),
    }
    return visit(written)
