"""Old `_target_` names in configurations: each resolves, and builds with the settings that it had at f7790fd.

A name that has moved may warn of it; nothing else may.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate

CONV = {"_target_": "mtl_accum.models.ConvTrunk", "channels": 1, "width": 4, "depth": 1}
TASK = {
    "_target_": "mtl_accum.models.Task",
    "head": {"_target_": "mtl_accum.models.ConvClassifier", "width": 4, "classes": 10, "depth": 2},
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "target": "digit",
    "weight": 1.0,
}
SPLIT = {
    "_target_": "mtl_accum.Split",
    "heads_per_graph": 1,
    "head_chunks": 1,
    "order": "forward",
    "allow_batch_statistics": False,
}
ACCURACY = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "num_classes": 10, "average": "micro"}
GENERATED = {
    "_target_": "mtl_accum.data.Generated",
    "batch_size": 2,
    "samples": 4,
    "test_samples": 2,
    "validation_samples": 0,
    "seed": 0,
    "num_workers": 0,
}
JOB = {"_partial_": True, "model": None, "data": None, "device": "auto", "seed": 0}
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0}
LOOP = {
    "_target_": "mtl_accum.training.Loop",
    "epochs": 40,
    "accumulate": 1,
    "precision": "fp32",
    "clip_norm": None,
    "on_nan": "raise",
    "step_in_backward": False,
    "deterministic": False,
    "lr_scaling": "none",
    "base_batch_size": None,
    "warmup_steps": 0,
    "scheduler": None,
    "validate_every": 1,
    "monitor": None,
    "monitor_mode": "min",
    "patience": None,
}
KEEP = {
    "_target_": "mtl_accum.training.Keep",
    "every_steps": None,
    "every_seconds": 300,
    "keep": 2,
    "on_error": "warn",
}
PARTIAL = {"_partial_": True}

# Every class and function of this package in conf/ and README.md at f7790fd, with the keys that stood there.
NODES: list[dict[str, Any]] = [
    {"_target_": "mtl_accum.SummedLoss"},
    {"_target_": "mtl_accum.PerTask"},
    SPLIT,
    {"_target_": "mtl_accum.Cached", "chunk_size": 64, "head_chunks": 1, "allow_batch_statistics": False},
    {"_target_": "mtl_accum.Accumulated", "edition": SPLIT, "micro_batches": 4, "allow_batch_statistics": False},
    {"_target_": "mtl_accum.Checkpointed", "edition": SPLIT},
    {"_target_": "mtl_accum.Offloaded", "edition": SPLIT},
    {"_target_": "mtl_accum.training.Auto", "budget": "auto"},
    {"_target_": "mtl_accum.MultiTaskModel", "inputs": "image", "trunk": CONV, "tasks": {"digit": TASK}},
    {"_target_": "mtl_accum.models.MultiTaskModel", "inputs": "image", "trunk": CONV, "tasks": {"digit": TASK}},
    TASK,
    {**TASK, "_target_": "mtl_accum.Task"},
    {**CONV, "dropout": 0.1},
    {**CONV, "norm": "group"},
    {"_target_": "mtl_accum.models.ConvClassifier", "width": 4, "classes": 10, "depth": 2},
    {"_target_": "mtl_accum.models.DenseHead", "width": 4, "channels": 1, "depth": 2},
    {
        "_target_": "mtl_accum.models.dense3",
        "scale": 0.0625,
        "size": [288, 384],
        "classes": 13,
        "width": 64,
        "blocks": [1, 1, 1, 1],
        "head_width": 256,
        "dropout": 0.5,
        "norm": "batch",
    },
    {
        "_target_": "mtl_accum.models.lm_heads",
        "scale": 0.0625,
        "vocabulary": 32000,
        "length": 2048,
        "layers": 24,
        "heads": 16,
        "ahead": 4,
        "chunks": 1,
        "dropout": 0.1,
    },
    {
        "_target_": "mtl_accum.models.text8",
        "scale": 0.125,
        "vocabulary": 30522,
        "length": 512,
        "layers": 12,
        "heads": 12,
        "dropout": 0.1,
    },
    {"_target_": "mtl_accum.models.many_tasks", "num_tasks": 2, "width": 4, "depth": 1, "head_depth": 1},
    *({"_target_": f"mtl_accum.models.{name}", **PARTIAL} for name in ("absolute_error", "angle", "hit")),
    *({"_target_": f"mtl_accum.models.{name}", **PARTIAL} for name in ("has_direction", "is_labelled")),
    *({"_target_": f"mtl_accum.models.{name}", **PARTIAL} for name in ("is_positive", "is_present")),
    {
        "_target_": "mtl_accum.data.Digits",
        "batch_size": 256,
        "noise": 0.15,
        "test_fraction": 0.25,
        "seed": 0,
        "validation_fraction": 0.0,
        "num_workers": 0,
    },
    {
        **GENERATED,
        "recipe": {
            "_target_": "mtl_accum.data.Scenes",
            "scale": 0.25,
            "size": [288, 384],
            "classes": 13,
            "planes": 12,
        },
    },
    {
        **GENERATED,
        "recipe": {"_target_": "mtl_accum.data.Sentences", "scale": 0.125, "vocabulary": 30522, "length": 512},
    },
    {
        **GENERATED,
        "recipe": {"_target_": "mtl_accum.data.Texts", "scale": 0.125, "vocabulary": 32000, "length": 2048},
    },
    {"_target_": "mtl_accum.training.Measure", "task": "digit", "metric": ACCURACY},
    {"_target_": "mtl_accum.training.Measure", "task": "digit", "prediction": "image", "metric": ACCURACY},
    {
        "_target_": "mtl_accum.training.MaskedMean",
        "error": {"_target_": "mtl_accum.models.absolute_error", **PARTIAL},
        "valid": {"_target_": "mtl_accum.models.is_positive", **PARTIAL},
    },
    {"_target_": "mtl_accum.training.Images", "task": "denoise", "input": "image", "target": "clean"},
    {
        "_target_": "mtl_accum.training.Images",
        "task": "normals",
        "input": "image",
        "target": "normals",
        "low": -1.0,
        "high": 1.0,
        "count": 4,
    },
    LOOP,
    KEEP,
    {"_target_": "mtl_accum.training.TensorBoard", **PARTIAL},
    {"_target_": "mtl_accum.training.MLflow", **PARTIAL, "experiment": "mtl_accum", "tracking_uri": None},
    {"_target_": "mtl_accum.training.WeightsAndBiases", **PARTIAL, "project": "mtl_accum", "mode": None},
    {"_target_": "mtl_accum.training.no_logger"},
]
JOBS: list[dict[str, Any]] = [
    {**JOB, "_target_": "mtl_accum.training.check", "optimizer": OPTIMIZER, "editions": {"split": SPLIT}},
    {**JOB, "_target_": "mtl_accum.training.evaluate_saved", "measures": {}, "path": None},
    {**JOB, "_target_": "mtl_accum.training.plan", "optimizer": OPTIMIZER, "budget": "auto"},
    {
        **JOB,
        "_target_": "mtl_accum.training.predict",
        "optimizer": OPTIMIZER,
        "editions": {"split": SPLIT},
        "snapshots": False,
    },
    {"_target_": "mtl_accum.report.rebuild", "_partial_": True, "path": None, "before": None},
    {
        **JOB,
        "_target_": "mtl_accum.training.train",
        "edition": SPLIT,
        "optimizer": OPTIMIZER,
        "measures": {},
        "images": {},
        "editions": {"split": SPLIT},
        "steps": 5,
        "snapshots": False,
        "training": True,
        "resume": None,
        "logger": None,
        "log_every": 10,
        "loop": LOOP,
        "checkpoint": KEEP,
    },
]


@contextmanager
def only_moves_are_announced() -> Iterator[None]:
    """Let names that have moved warn, and nothing else."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", "mtl_accum.* is now mtl_accum", kind)
        yield


def name_of(node: dict[str, Any]) -> str:
    return str(node["_target_"])


@pytest.mark.parametrize("name", sorted({name_of(node) for node in (*NODES, *JOBS)}))
def test_an_old_target_resolves(name: str) -> None:
    with only_moves_are_announced():
        assert callable(get_object(name))


@pytest.mark.parametrize("node", NODES, ids=name_of)
def test_an_old_target_builds(node: dict[str, Any]) -> None:
    kind = "meta" if node["_target_"].rpartition(".")[2] in {"dense3", "lm_heads", "text8"} else "cpu"  # large ones
    with only_moves_are_announced(), torch.device(kind):
        instantiate(node, _convert_="all")


@pytest.mark.parametrize("node", JOBS, ids=name_of)
def test_an_old_job_takes_the_arguments_of_its_time(node: dict[str, Any]) -> None:
    with only_moves_are_announced():
        job = instantiate(node, _convert_="all")
    inspect.signature(job).bind(run=None)


def test_a_warning_about_anything_else_is_an_error() -> None:
    with pytest.raises(FutureWarning, match="another"), only_moves_are_announced():
        warnings.warn("another thing", FutureWarning, stacklevel=1)
