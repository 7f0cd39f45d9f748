"""Jobs with flat arguments, for job files written before `Experiment`: their `_target_`s lead here.

A new job file names `mtl_accum.jobs.train` and the others, and groups the arguments as `conf/job/train.yaml` does.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mtl_accum import jobs

__all__ = ["check", "evaluate_saved", "plan", "predict", "train"]


def train(**arguments: Any) -> None:
    """Run `mtl_accum.jobs.train`."""
    jobs.train(
        **_grouped(
            arguments,
            experiment=jobs.Experiment,
            recording=jobs.Recording,
            evaluation=jobs.Evaluation,
            comparison=jobs.Comparison,
        )
    )


def check(**arguments: Any) -> None:
    """Run `mtl_accum.jobs.check`."""
    jobs.check(**_grouped(arguments, experiment=jobs.Experiment))


def plan(**arguments: Any) -> None:
    """Run `mtl_accum.jobs.plan`."""
    jobs.plan(**_grouped({"form": "forward_backward", **arguments}, experiment=jobs.Experiment))


def predict(**arguments: Any) -> None:
    """Run `mtl_accum.jobs.predict`."""
    steps = {"steps": 1}  # a prediction times none
    jobs.predict(**_grouped({**steps, **arguments}, experiment=jobs.Experiment, comparison=jobs.Comparison))


def evaluate_saved(**arguments: Any) -> None:
    """Run `mtl_accum.jobs.evaluate_saved`."""
    jobs.evaluate_saved(**_grouped(arguments, experiment=jobs.Experiment, evaluation=jobs.Evaluation))


def _grouped(arguments: dict[str, Any], **groups: Any) -> dict[str, Any]:
    """Replace the arguments that are fields of a group by one argument, the group."""
    grouped = {}
    for name, group in groups.items():
        names = {field.name for field in fields(group)} & arguments.keys()
        grouped[name] = group(**{field: arguments[field] for field in names})
        arguments = {key: value for key, value in arguments.items() if key not in names}
    return {**arguments, **grouped}
