"""Selection of the part of a batch that a module reads, by keys and callables."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import nn

__all__ = ["Inputs", "Selector", "_OnInputs", "select"]

Selector = Hashable | Callable[[Any], Any]  # a key of the batch, or a function of it
Inputs = Selector | Mapping[str, Any] | Sequence[Any]  # of selectors, or of such mappings and sequences


class _OnInputs(nn.Module):
    """Module called on a selected part of the batch."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.module, self._inputs = module, _plain(inputs)

    def forward(self, batch: Any) -> Any:
        value = _read(self._inputs, batch)
        if isinstance(self._inputs, dict):
            return self.module(**value)
        return self.module(*value) if isinstance(self._inputs, tuple) else self.module(value)


def _plain(inputs: Any) -> Any:
    """Convert nested mappings to dicts and sequences to tuples: a YAML file gives Hydra's own types."""
    if callable(inputs) or isinstance(inputs, str | bytes):
        return inputs
    if isinstance(inputs, Mapping):
        return {name: _plain(value) for name, value in inputs.items()}
    return tuple(map(_plain, inputs)) if isinstance(inputs, Sequence) else inputs


def _read(inputs: Any, batch: Any) -> Any:
    """Return the selected parts of a batch, nested like the selectors."""
    if isinstance(inputs, dict):
        return {name: _read(value, batch) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_read(value, batch) for value in inputs)
    if not callable(inputs) and isinstance(batch, Mapping) and inputs not in batch:
        keys = ", ".join(map(str, batch))
        raise ValueError(f"inputs must be a key of the batch ({keys}) or a callable of it, found {inputs!r}")
    return select(inputs, batch)


def select(selector: Selector, batch: Any) -> Any:
    """Return the part of a batch that a key or a callable selects."""
    return selector(batch) if callable(selector) else batch[selector]
