"""Evaluation of a network: metrics on held-out data."""

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
    """Metric of one task on held-out data.

    Attributes:
        task: Name of the task with the target.
        metric: Metric of torchmetrics, updated with (prediction, target).
        prediction: Key of the batch to use as the prediction, e.g. the input as a baseline; None for the head's output.

    Raises:
        ValueError: An attribute has a wrong type.
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
    """Compute measures over all batches.

    Args:
        model: Network, on the device; it is in evaluation mode afterwards.
        measures: Measures by name.
        batches: Held-out data.
        device: Device of the network.

    Returns:
        Values of the measures, by name.

    Raises:
        ValueError: The model lacks the task of a measure, or a batch lacks its prediction.
    """
    require_tasks(measures, model)
    for measure in measures.values():
        measure.metric.to(device).reset()
    model.eval()
    for host_batch in batches:
        batch = to_device(host_batch, device)
        outputs = model(batch)
        for name, measure in measures.items():
            if measure.prediction is not None and measure.prediction not in batch:
                raise ValueError(f"measures.{name}.prediction must be a key of the batch, found {measure.prediction!r}")
            target = model.tasks[measure.task].target(batch)
            if target is not None:
                prediction = outputs[measure.task] if measure.prediction is None else batch[measure.prediction]
                measure.metric.update(prediction, target)
    return {name: float(measure.metric.compute()) for name, measure in measures.items()}


def require_tasks(measures: Mapping[str, EvalMetric], model: MultiTaskModel) -> None:
    """Raise ValueError if a measure names a task that the model does not have."""
    for name, measure in measures.items():
        if measure.task not in model.tasks:
            raise ValueError(f"measures.{name}.task must be one of {', '.join(model.tasks)}; found {measure.task!r}")
