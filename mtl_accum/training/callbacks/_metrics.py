"""What a logger is told while a run trains: losses, metrics, gradient norms, learning rates, speed and memory."""

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
    """Tells a logger every so many steps: reading figures waits for the device.

    - loss/T, weight/T, gradient_norm/T of every task T (of its own parameters) and of the trunk; loss/sum.
    - train/M: every measure M since the epoch began, from the outputs that the training steps have made anyway.
    - learning_rate; step/seconds and step/samples_per_second since the last time; skipped steps.
    - memory/...: on a GPU allocated, its peak, and what NVML says; elsewhere the process's peak.

    Args:
        logger: is told.
        every: steps.
        metrics: fed by `training_metrics`, by name.

    Raises:
        ValueError: every is less than 1.
    """

    def __init__(self, logger: Logger, every: int, metrics: Mapping[str, Metric]) -> None:
        positive_int("log_every", every)
        self._logger, self._every, self._metrics = logger, every, metrics
        self._since, self._steps = time.perf_counter(), 0
        self._samples: int | None = None

    def on_step(self, run: Training) -> None:
        """Tell, if it is time."""
        if run.position.step % self._every:
            return
        history = run.losses.read()  # waits for the device: time counts what was done
        now, steps = time.perf_counter(), run.position.step - self._steps
        seconds = (now - self._since) / steps if self._steps else None
        self._since, self._steps = now, run.position.step
        values = {f"loss/{name}": losses[-1] for name, losses in history.items()}
        values["loss/sum"] = sum(values.values())
        values |= {f"weight/{name}": float(getattr(task, "weight", 1.0)) for name, task in run.model.tasks.items()}
        values |= _norms(run.model)
        values |= self._measured()
        values["learning_rate"] = float(run.optimizer.param_groups[0]["lr"])
        values["skipped"] = run.update.skipped
        if seconds is not None:
            values["step/seconds"] = seconds
            samples = getattr(run.batches, "batch_size", None)
            if samples:
                values["step/samples_per_second"] = samples * run.loop.accumulate / seconds
        self._logger.log(run.position.step, {**values, **_memory(run.device)})

    def on_epoch(self, run: Training) -> None:
        """Metrics begin again."""
        for metric in self._metrics.values():
            metric.reset()

    def validated(self, step: int, found: Mapping[str, float]) -> None:
        """Tell what validation has found."""
        self._logger.log(step, {f"validation/{name}": value for name, value in found.items()})

    def _measured(self) -> dict[str, float]:
        return {
            f"train/{name}": float(metric.compute()) for name, metric in self._metrics.items() if metric.update_count
        }


@contextmanager
def training_metrics(
    model: MultiTaskModel, measures: Mapping[str, EvalMetric], device: torch.device
) -> Iterator[dict[str, Metric]]:
    """Inside the block, tasks feed a metric a measure with what their heads make in training: no second forward.

    Measures of something else than a head's output are left out.

    Args:
        model: whose tasks.
        measures: by name.
        device: the model's.
    """
    metrics: dict[str, Metric] = {}
    for name, measure in measures.items():
        if measure.prediction is None:
            metrics[name] = measure.metric.clone().to(device)
            metrics[name].validate_args = False  # looking at the values would wait for the device in every step
            model.tasks[measure.task].watchers.append(_feeding(metrics[name]))
    try:
        yield metrics
    finally:
        for task in model.tasks.values():
            task.watchers.clear()


def _feeding(metric: Metric) -> Callable[[Any, Any], None]:
    def feed(output: Any, target: Any) -> None:
        with torch.no_grad():
            metric.update(output.detach(), target)

    return feed


def _norms(model: MultiTaskModel) -> dict[str, float]:
    """Of the gradients that the last step has left."""
    parts: dict[str, nn.Module] = {"trunk": model.trunk, **model.tasks}
    found = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in parts.items()}
    return {f"gradient_norm/{name}": float(nn.utils.get_total_norm(each)) for name, each in found.items() if each}


def _memory(device: torch.device) -> dict[str, float]:
    known = {"process_peak": process_peak()}
    if device.type == "cuda":
        nvml = read_nvml(str(torch.cuda.get_device_properties(device).uuid))
        known = {
            "allocated": torch.cuda.memory_allocated(device),
            "allocated_peak": torch.cuda.max_memory_allocated(device),
            "nvml_process": nvml.process_bytes,
            "nvml_device": nvml.device_bytes,
        }
    return {f"memory/{name}_mib": size / _MIB for name, size in known.items() if size is not None}
