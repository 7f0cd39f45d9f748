"""Attention masks of Hugging Face's transformers on tensors without data."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["attention_masks"]

_MASKED = (
    "an upper bound: transformers leaves out the attention mask where nothing is padded and no sequences are packed, "
    "which is not known without data; predicted with the mask"
)
_LOCK = threading.RLock()


@contextmanager
def attention_masks() -> Iterator[list[str]]:
    """Make transformers leave out the same attention masks as on tensors with data.

    Transformers derives from positions and padding whether a mask is needed, and always builds one on tensors without
    data. Positions with stride 0 over the samples were made by the model itself, so no sequences are packed.

    Two functions of transformers are replaced until the block ends, if it is loaded. A block in another thread waits
    for that.

    Yields:
        List of caveats, to which one is added when a mask is built that may not be needed.
    """
    masks = sys.modules.get("transformers.masking_utils")
    if masks is None or not hasattr(masks, "find_packed_sequence_indices") or not hasattr(masks, "is_tracing"):
        yield []
        return
    caveats: list[str] = []
    original_packed, original_tracing = masks.find_packed_sequence_indices, masks.is_tracing

    def packed(position_ids: Tensor) -> Any:
        made_by_the_model = isinstance(position_ids, FakeTensor) and position_ids.stride(0) == 0
        return None if made_by_the_model else original_packed(position_ids)

    def is_tracing(tensor: Any = None) -> Any:
        if isinstance(tensor, FakeTensor):
            caveats[:] = [_MASKED]
        return original_tracing(tensor)

    with _LOCK, patch.multiple(masks, find_packed_sequence_indices=packed, is_tracing=is_tracing):
        yield caveats
