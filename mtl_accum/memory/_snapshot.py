"""Files for PyTorch's memory viewer (https://pytorch.org/memory_viz), from what a meter has seen."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtl_accum.memory._caching_allocator import BLOCK
from mtl_accum.memory._storages import Event

__all__ = ["write_snapshot"]

_START = 1 << 20  # the first address; the viewer takes 0 for nothing


def write_snapshot(events: Iterable[Event], path: Path) -> None:
    """Write the events of one step as a snapshot like those of `torch.cuda.memory._dump_snapshot`.

    Every storage has an address of its own, so that none hides another; its "stack" is the operator that made it
    and the phase in which it did.

    Args:
        events: of a `TensorMeter` with `trace=True`.
        path: of the file, a pickle of plain lists and dictionaries.
    """
    trace: list[dict[str, Any]] = []
    live: dict[int, dict[str, Any]] = {}
    top = _START
    for event in events:
        if event.size > 0:
            frames = [{"name": event.operator, "filename": event.phase or "before the step", "line": 0}]
            born = {"action": "alloc", "addr": top, "size": event.size, "stream": 0, "frames": frames}
            top += -(-event.size // BLOCK) * BLOCK
            live[event.storage] = born
            trace.append(born)
        elif event.size < 0:
            born = live.pop(event.storage)
            trace += [{**born, "action": action} for action in ("free_requested", "free_completed")]
    segment = {
        "device": 0,
        "address": _START,
        "total_size": top - _START,
        "allocated_size": sum(born["size"] for born in live.values()),
        "active_size": sum(born["size"] for born in live.values()),
        "requested_size": sum(born["size"] for born in live.values()),
        "stream": 0,
        "segment_type": "large",
        "blocks": _blocks(live.values(), top),
        "frames": [],
    }
    path.write_bytes(pickle.dumps({"segments": [segment], "device_traces": [trace]}))


def _blocks(live: Iterable[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    """All of the segment: what is live at the end, and the room between."""
    blocks: list[dict[str, Any]] = []
    at = _START
    for born in live:  # in the order of their addresses
        if born["addr"] > at:
            blocks.append(_block(at, born["addr"] - at, "inactive", []))
        size = -(-born["size"] // BLOCK) * BLOCK
        blocks.append(
            {**_block(born["addr"], size, "active_allocated", born["frames"]), "requested_size": born["size"]}
        )
        at = born["addr"] + size
    return [*blocks, _block(at, top - at, "inactive", [])] if top > at else blocks


def _block(address: int, size: int, state: str, frames: list[Any]) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": size, "state": state, "frames": frames}
