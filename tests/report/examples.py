"""Reports as a run on the CPU and one on a GPU would write them."""

from __future__ import annotations

from typing import Any

MIB = 2**20


def row(edition: str, meaning: str, **changes: Any) -> dict[str, Any]:
    return {
        "edition": edition,
        "meaning": meaning,
        "memory": [],
        "step_seconds": [],
        "gradient_difference": None,
        "failure": None,
        **changes,
    }


def memory(source: str, peak: int, **changes: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("reserved_bytes", "process_bytes", "device_bytes"))
    return {"source": source, "peak_bytes": peak * MIB, "caveats": [], **nothing, **changes}


def report(kind: str = "cpu") -> dict[str, Any]:
    source = "cuda" if kind == "cuda" else "tensors"
    device = {"cpu": {"type": "cpu", "name": "A CPU", "cores": 4, "threads": 2}}.get(
        kind, {"type": "cuda", "name": "A GPU", "total_bytes": 80 * 2**30}
    )
    more = {"reserved_bytes": 600 * MIB, "process_bytes": 900 * MIB} if kind == "cuda" else {}
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "command": "python -m mtl_accum +experiment=x|y",
        "seed": 3,
        "device": device,
        "versions": {"torch": "2.13.0"},
        "git_commit": None,
        "config": {"epochs": 2},
        "training": {"epochs": 2, "seconds": 1.5, "losses": {"a": [2.0, 1.0, 0.5], "b": [1.0, 0.9, 0.8]}},
        "metrics": {"accuracy": 0.5},
        "editions": [
            row(
                "summed",
                "Edition 1: all at once.",
                memory=[memory(source, 400, **more), memory("process", 800)],
                step_seconds=[0.1, 0.2, 0.1],
                gradient_difference=0.0,
            ),
            row(
                "per_task",
                "Edition 2: one at a time.",
                memory=[memory(source, 300, caveats=["mind the gap"])],
                step_seconds=[0.15],
                gradient_difference=2e-7,
            ),
            row("split", "Split: once.", failure="prepare: out of memory"),
        ],
    }
