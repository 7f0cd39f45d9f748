"""Metrics on held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric

from mtl_accum._validate import selector, text
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.loop import to_device

__all__ = ["EvalMetric", "evaluate", "require_tasks"]


@dataclass(frozen=True)
class EvalMetric:
    """One figure of merit.

    Attributes:
        task: whose target it looks at.
        metric: a torchmetrics metric, updated with (prediction, target).
        prediction: by default the head's output; a key of the batch shows what doing nothing would give.

    Raises:
        ValueError: an attribute is no such thing.
    """

    task: str
    metric: Metric
    prediction: str | None = None

    def __post_init__(self) -> None:
        text("task", self.task)
        if not isinstance(self.metric, Metric):
            raise ValueError(f"metric must be a torchmetrics metric, found {self.metric!r:.200}")
        selector("prediction", self.prediction)


@torch.no_grad()
def evaluate(
    model: MultiTaskModel, measures: Mapping[str, EvalMetric], batches: Iterable[Any], *, device: torch.device
) -> dict[str, float]:
    """Every measure over all batches, by name.

    Raises:
        ValueError: a measure names a task that the model does not have, or a prediction that the batch has not.
    """
    require_tasks(measures, model)
    for measure in measures.values():
        measure.metric.to(device).reset()
    model.eval()
    for batch in batches:
        here = to_device(batch, device)
        outputs = model(here)
        for name, measure in measures.items():
            if measure.prediction is not None and measure.prediction not in here:
                raise ValueError(f"measures.{name}.prediction must be a key of the batch, found {measure.prediction!r}")
            target = model.tasks[measure.task].target(here)
            if target is not None:
                seen = outputs[measure.task] if measure.prediction is None else here[measure.prediction]
                measure.metric.update(seen, target)
    return {name: float(measure.metric.compute()) for name, measure in measures.items()}


def require_tasks(measures: Mapping[str, EvalMetric], model: MultiTaskModel) -> None:
    """Raise ValueError if a measure names a task that the model does not have."""
    for name, measure in measures.items():
        if measure.task not in model.tasks:
            raise ValueError(f"measures.{name}.task must be one of {', '.join(model.tasks)}; found {measure.task!r}")
