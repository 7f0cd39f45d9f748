"""A plan as it stands in a report."""

from __future__ import annotations

from typing import Any

from tests.report.examples import MIB, explained


def schedule(name: str, peak: int, ratio: float, **changes: Any) -> dict[str, Any]:
    return {"schedule": name, "edition": {"_target_": name}, "peak_bytes": peak * MIB, "time_ratio": ratio, **changes}


def plan(**changes: Any) -> dict[str, Any]:
    split = schedule("Split()", 200, 1.02)
    return {
        "budget": {"size": 250 * MIB, "words": "80% of 0.3 GiB"},
        "device": "cpu",
        "samples": 64,
        "chosen": {**split, "overrides": ["edition=split"]},
        "peak": explained("predicted", 200),
        "summed": schedule("SummedLoss()", 400, 1.0),
        "front": [
            schedule("SummedLoss()", 400, 1.0),
            split,
            schedule("Near()", 190, 1.03),
            schedule("Cached(chunk_size=8)", 100, 1.4),
        ],
        "fallbacks": [],
        "candidates": 17,
        "left_out": {"Accumulated": "Accumulated: trunk.bn uses batch statistics", "trunk chunks": "Cached: the same"},
        "largest_batch": [
            {"schedule": "Split()", "samples": 80},
            {"schedule": "SummedLoss()", "samples": 0},
            {"schedule": "Cached(chunk_size=8)", "samples": None},
        ],
        "timed_by": "timings of the parts",
        "trials": [
            {"schedule": "Split()", "peak_bytes": 200 * MIB, "fits": True, "step_seconds": [0.2, 0.1, 0.3]},
            {"schedule": "Big()", "peak_bytes": 300 * MIB, "fits": False, "step_seconds": []},
            {"schedule": "Huge()", "peak_bytes": None, "fits": False, "step_seconds": []},
        ],
        "holds": {"parameters and buffers": 30 * MIB, "one sample's trunk": 60 * MIB},
        "advice": [],
        "spent": {"measuring costs": 1.25, "predicting": 0.5},
        **changes,
    }
