"""Snapshot files for PyTorch's memory viewer (https://pytorch.org/memory_viz) from a meter's events."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtl_accum.memory._caching_allocator import BLOCK
from mtl_accum.memory._storages import Event

__all__ = ["write_snapshot"]

_START = 1 << 20  # first address; the viewer treats 0 as missing


def write_snapshot(events: Iterable[Event], path: Path) -> None:
    """Write the events of one step as a snapshot like those of `torch.cuda.memory._dump_snapshot`.

    Every storage has its own address, so none hides another. Its "stack" is the operator that created it and the phase
    of that operator.

    Args:
        events: Events of a `TensorMeter` with `trace=True`.
        path: Path of the file, a pickle of plain lists and dictionaries.
    """
    trace: list[dict[str, Any]] = []
    live: dict[int, dict[str, Any]] = {}
    top = _START
    for event in events:
        if event.size > 0:
            frames = [{"name": event.operator, "filename": event.phase or "before the step", "line": 0}]
            allocation = {"action": "alloc", "addr": top, "size": event.size, "stream": 0, "frames": frames}
            top += -(-event.size // BLOCK) * BLOCK
            live[event.storage] = allocation
            trace.append(allocation)
        elif event.size < 0:
            allocation = live.pop(event.storage)
            trace += [{**allocation, "action": action} for action in ("free_requested", "free_completed")]
    live_bytes = sum(allocation["size"] for allocation in live.values())
    segment = {
        "device": 0,
        "address": _START,
        "total_size": top - _START,
        "allocated_size": live_bytes,
        "active_size": live_bytes,
        "requested_size": live_bytes,
        "stream": 0,
        "segment_type": "large",
        "blocks": _blocks(live.values(), top),
        "frames": [],
    }
    path.write_bytes(pickle.dumps({"segments": [segment], "device_traces": [trace]}))


def _blocks(live: Iterable[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    """Return the blocks of the segment: storages that are live at the end, and the gaps between them."""
    blocks: list[dict[str, Any]] = []
    address = _START
    for allocation in live:  # in the order of their addresses
        start, requested = allocation["addr"], allocation["size"]
        if start > address:
            blocks.append(_block(address, start - address, "inactive", []))
        size = -(-requested // BLOCK) * BLOCK
        blocks.append({**_block(start, size, "active_allocated", allocation["frames"]), "requested_size": requested})
        address = start + size
    return [*blocks, _block(address, top - address, "inactive", [])] if top > address else blocks


def _block(address: int, size: int, state: str, frames: list[Any]) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": size, "state": state, "frames": frames}
