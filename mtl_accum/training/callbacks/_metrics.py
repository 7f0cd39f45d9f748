"""Metrics during training: losses, training metrics, gradient norms, learning rates, speed and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

from mtl_accum._validate import positive_int
from mtl_accum.memory import process_peak, read_nvml
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.callbacks._loggers import Logger
from mtl_accum.training.evaluation import EvalMetric
from mtl_accum.training.loop import Callback, Training

__all__ = ["MetricsCallback", "training_metrics"]

_MIB = 2**20


class MetricsCallback(Callback):
    """Callback that logs metrics every so many steps; reading them waits for the device.

    - loss/T and weight/T of every task T; loss/sum; gradient_norm/T of every task's own parameters, and of the trunk.
    - train/M: every measure M since the beginning of the epoch, from the outputs of the training steps.
    - learning_rate; step/seconds and step/samples_per_second since the last entry; number of skipped steps.
    - memory/...: on a GPU, allocated memory, its peak, and NVML's readings; elsewhere the peak of the process.

    Args:
        logger: Logger of the metrics.
        every: Number of steps between two entries.
        metrics: Metrics by name, updated by `training_metrics`.

    Raises:
        ValueError: every is less than 1.
    """

    def __init__(self, logger: Logger, every: int, metrics: Mapping[str, Metric]) -> None:
        positive_int("log_every", every)
        self._logger, self._every, self._metrics = logger, every, metrics
        self._last_time, self._last_step = time.perf_counter(), 0

    def on_step(self, run: Training) -> None:
        """Log the metrics if they are due."""
        if run.position.step % self._every:
            return
        history = run.losses.read()  # waits for the device, so the time is that of finished steps
        time_now, steps = time.perf_counter(), run.position.step - self._last_step
        seconds = (time_now - self._last_time) / steps if self._last_step else None
        self._last_time, self._last_step = time_now, run.position.step
        values = {f"loss/{name}": losses[-1] for name, losses in history.items()}
        values["loss/sum"] = sum(values.values())
        values |= {f"weight/{name}": float(getattr(task, "weight", 1.0)) for name, task in run.model.tasks.items()}
        values |= _gradient_norms(run.model)
        values |= self._computed()
        values["learning_rate"] = float(run.optimizer.param_groups[0]["lr"])
        values["skipped"] = run.update.skipped
        if seconds is not None:
            values["step/seconds"] = seconds
            samples = getattr(run.batches, "batch_size", None)
            if samples:
                values["step/samples_per_second"] = samples * run.loop.accumulate / seconds
        self._logger.log(run.position.step, {**values, **_memory(run.device)})

    def on_epoch(self, run: Training) -> None:
        """Reset the training metrics."""
        for metric in self._metrics.values():
            metric.reset()

    def log_validation(self, step: int, measures: Mapping[str, float]) -> None:
        """Log the measures of a validation.

        Args:
            step: Number of the last step.
            measures: Measures by name.
        """
        self._logger.log(step, {f"validation/{name}": value for name, value in measures.items()})

    def _computed(self) -> dict[str, float]:
        return {
            f"train/{name}": float(metric.compute()) for name, metric in self._metrics.items() if metric.update_count
        }


@contextmanager
def training_metrics(
    model: MultiTaskModel, measures: Mapping[str, EvalMetric], device: torch.device
) -> Iterator[dict[str, Metric]]:
    """Update metrics from the heads' outputs in training, without a second forward.

    Measures of something else than a head's output are left out.

    Args:
        model: Network whose outputs to measure in the block.
        measures: Measures by name.
        device: Device of the network.

    Yields:
        One metric a measure, by name.
    """
    metrics: dict[str, Metric] = {}
    for name, measure in measures.items():
        if measure.prediction is None:
            metrics[name] = measure.metric.clone().to(device)
            metrics[name].reset()  # the original may have been updated by an evaluation
            metrics[name].validate_args = False  # checking the values would wait for the device in every step
            model.tasks[measure.task].watchers.append(_updating(metrics[name]))
    try:
        yield metrics
    finally:
        for task in model.tasks.values():
            task.watchers.clear()


def _updating(metric: Metric) -> Callable[[Any, Any], None]:
    def update(output: Any, target: Any) -> None:
        with torch.no_grad():
            metric.update(output.detach(), target)

    return update


def _gradient_norms(model: MultiTaskModel) -> dict[str, float]:
    """Return the gradient norms of trunk and tasks after the last step."""
    parts: dict[str, nn.Module] = {"trunk": model.trunk, **model.tasks}
    gradients = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in parts.items()}
    return {f"gradient_norm/{name}": float(nn.utils.get_total_norm(each)) for name, each in gradients.items() if each}


def _memory(device: torch.device) -> dict[str, float]:
    sizes = {"process_peak": process_peak()}
    if device.type == "cuda":
        nvml = read_nvml(str(torch.cuda.get_device_properties(device).uuid))
        sizes = {
            "allocated": torch.cuda.memory_allocated(device),
            "allocated_peak": torch.cuda.max_memory_allocated(device),
            "nvml_process": nvml.process_bytes,
            "nvml_device": nvml.device_bytes,
        }
    return {f"memory/{name}_mib": size / _MIB for name, size in sizes.items() if size is not None}
