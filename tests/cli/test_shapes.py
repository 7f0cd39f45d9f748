"""The experiments in the shapes of the literature, from the command line, as small as they go."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import mtl_accum

TINY = ["epochs=1", "data.batch_size=4", "data.samples=8", "data.test_samples=4", "compare.steps=1"]
TWO = "~edition@compare.editions.per_task"  # two fresh processes fewer


@pytest.mark.parametrize(
    ("name", "scale", "measures", "tasks"),
    [
        pytest.param(
            *("dense3", 0.125, {"mean_iou", "pixel_accuracy", "depth_error", "normals_angle"}, 3),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("text8", 0.05, {"pos_accuracy", "ner_accuracy", "sentiment_accuracy", "similarity_error"}, 8),
            marks=pytest.mark.slow,
        ),
        ("lm_heads", 0.03, {"accuracy", "accuracy_of_two_ahead"}, 4),
    ],
)
def test_experiment(tmp_path: Path, name: str, scale: float, measures: Any, tasks: int) -> None:
    arguments = [f"+experiment={name}", f"scale={scale}", *TINY, TWO, "hydra.run.dir=out"]
    done = mtl_accum(*arguments, *(["model.chunks=3"] if name == "lm_heads" else []), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert measures <= set(report["metrics"])
    assert all(math.isfinite(report["metrics"][measure]) for measure in measures)
    assert len(report["training"]["losses"]) == tasks
    assert [(row["edition"], row["failure"]) for row in report["editions"]] == [
        ("summed", None),
        ("split", None),
    ]
    assert all(row["gradient_difference"] <= 1e-5 for row in report["editions"])
