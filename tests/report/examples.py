"""Reports as a run on the CPU and one on a GPU would write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mtl_accum import report as reports

MIB = 2**20
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAUAAAACCAAAAAC1AUmBAAAAFElEQVR4nGNgcPjfoMDEwMDAwAAAEG8B4ixEYUcAAAAASUVORK5CYII="


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
    nothing = dict.fromkeys(
        ("reserved_bytes", "process_bytes", "device_bytes", "categories", "peak_phase", "peak_operator")
    )
    return {
        "source": source,
        "peak_bytes": peak * MIB,
        "base_bytes": MIB,
        "caveats": [],
        "timeline": [],
        **nothing,
        **changes,
    }


def explained(source: str, peak: int) -> dict[str, Any]:
    """A record with its categories and phases."""
    empty = dict.fromkeys(("buffers", "gradients", "optimizer_state", "inputs", "workspaces", "rounding"), 0)
    categories = {**empty, "parameters": MIB, "activations": (peak - 11) * MIB, "temporaries": 10 * MIB}
    phases = [("trunk", "forward", peak // 2), ("head a", "backward", peak), ("optimizer", "optimizer", 3)]
    timeline = [
        {"name": name, "kind": kind, "peak_bytes": most * MIB, "end_bytes": (most - 1) * MIB}
        for name, kind, most in phases
    ]
    found = memory(source, peak, categories=categories, timeline=timeline)
    return {**found, "peak_phase": "head a backward", "peak_operator": "aten.mm.default"}


def report(kind: str = "cpu") -> dict[str, Any]:
    source = "cuda" if kind == "cuda" else "tensors"
    device = {"cpu": {"type": "cpu", "name": "A CPU", "cores": 4, "threads": 2}}.get(
        kind, {"type": "cuda", "name": "A GPU", "total_bytes": 80 * 2**30}
    )

    def also(peak: int) -> list[dict[str, Any]]:
        """On a GPU the categories are the live tensors'; the allocator has a little more."""
        return [explained("tensors", peak - 20)] if kind == "cuda" else []

    more = {"reserved_bytes": 600 * MIB, "process_bytes": 900 * MIB} if kind == "cuda" else {}
    return {
        "kind": "run",
        "created": "2026-01-02T03:04:05+00:00",
        "command": "python -m mtl_accum +experiment=x|y",
        "seed": 3,
        "samples": 256,
        "device": device,
        "versions": {"torch": "2.13.0"},
        "git_commit": None,
        "config": {"epochs": 2},
        "training": {"epochs": 2, "seconds": 1.5, "losses": {"a": [2.0, 1.0, 0.5], "b": [1.0, 0.9, 0.8]}},
        "metrics": {"accuracy": 0.5},
        "images": {"restored?": [{"name": name, "png": PNG} for name in ("input", "before training", "target")]},
        "editions": [
            row(
                "summed",
                "Edition 1: all at once.",
                memory=[{**explained(source, 400), **more}, memory("process", 800), *also(400)],
                step_seconds=[0.1, 0.2, 0.1],
                gradient_difference=0.0,
            ),
            row(
                "per_task",
                "Edition 2: one at a time.",
                memory=[{**explained(source, 300), "caveats": ["mind the gap"]}, *also(300)],
                step_seconds=[0.15],
                gradient_difference=2e-7,
            ),
            row("split", "Split: once.", failure="prepare: out of memory"),
        ],
    }


def prediction() -> dict[str, Any]:
    rows = [
        row("summed", "Edition 1: all at once.", memory=[explained("predicted", 400)], predicted_in_seconds=0.5),
        row("split", "Split: once.", memory=[explained("predicted", 200)], predicted_in_seconds=0.25),
        row("cached", "Cached: in chunks.", failure="refused", predicted_in_seconds=0.1),
    ]
    common = {key: value for key, value in report().items() if key not in ("training", "metrics", "images")}
    return {**common, "kind": "prediction", "device": {"type": "cuda"}, "editions": rows}


LIMIT = 8 * MIB
EVIL = "<script>alert(1)</script>&\"'"


def without_library(page: str) -> str:
    """The page without Plotly's own code."""
    return re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)


def counted(content: dict[str, Any]) -> dict[str, Any]:
    """The same with a curve and counted operators, as the meters write them."""
    found = content["editions"][0]["memory"][0]
    for phase, (start, end) in zip(found["timeline"], [(0, 40), (40, 90), (100, 1100)], strict=True):
        phase |= {"start_operator": start, "end_operator": end}
    found["curve"] = [[0, MIB], [40, 200 * MIB], [60, 400 * MIB], [90, 3 * MIB], [1100, MIB]]
    return content


def job(
    folder: Path, number: int, overrides: str, peak: int | None = None, seconds: float = 0.1, reason: str | None = None
) -> None:
    here = folder / str(number)
    here.mkdir(parents=True, exist_ok=True)
    command = f"python -m mtl_accum +experiment=two_task {overrides}"
    if reason is not None:
        content = {"version": reports.VERSION, "kind": "failure", "command": command, "reason": reason}
        (here / "failure.json").write_text(json.dumps(content))
        return
    edition = row("x", "X: y.", memory=[memory("tensors", peak)], step_seconds=[seconds], gradient_difference=1e-7)
    content = {**report(), "version": reports.VERSION, "command": command, "editions": [edition]}
    (here / "report.json").write_text(json.dumps({**content, "samples": 100}))
