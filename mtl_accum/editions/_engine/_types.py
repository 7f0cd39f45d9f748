"""The types of what an edition is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["Tasks", "Trunk"]

Trunk = Callable[[Any], Any]  # batch -> representation
Tasks = Mapping[str, Callable[[Any, Any], Tensor]]  # name -> (representation, batch) -> 0-dim loss
