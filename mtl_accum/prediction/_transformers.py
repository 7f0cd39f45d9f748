"""The attention masks of Hugging Face's transformers, on tensors without data."""

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
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def attention_masks() -> Iterator[list[str]]:
    """Let transformers leave out a mask that it leaves out where tensors have data.

    It looks at positions and padding to see whether a mask is needed, and on tensors without data makes one in any
    case. Positions that are the same for all samples by their stride were made by the model, and pack nothing.

    Nothing is replaced where transformers is not loaded; else its functions are, until the block ends, and a block in
    another thread waits for that.

    Yields:
        What had to be left as it was, in words, as it turns up.
    """
    masks = sys.modules.get("transformers.masking_utils")
    if masks is None or not hasattr(masks, "find_packed_sequence_indices") or not hasattr(masks, "is_tracing"):
        yield []
        return
    caveats: list[str] = []
    look, ask = masks.find_packed_sequence_indices, masks.is_tracing

    def packed(position_ids: Tensor) -> Any:
        made_by_the_model = isinstance(position_ids, FakeTensor) and position_ids.stride(0) == 0
        return None if made_by_the_model else look(position_ids)

    def is_tracing(tensor: Any = None) -> Any:
        if isinstance(tensor, FakeTensor):
            caveats[:] = [_MASKED]
        return ask(tensor)

    with _ONE_AT_A_TIME, patch.multiple(masks, find_packed_sequence_indices=packed, is_tracing=is_tracing):
        yield caveats
