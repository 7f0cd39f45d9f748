"""Situations in which a task's mean has another number of terms than there are samples."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from mtl_accum.models import Task, count_labels, count_mask, count_present
from mtl_accum.testing._workloads import SAMPLES, Workload
from mtl_accum.testing.situations._situation import plain, rewrapped, situation


def counted(dtype: torch.dtype, name: str) -> Workload:
    """A second task whose mean has an uneven number of terms in the pieces, and none in some of them."""
    load = plain(dtype, 1)
    head = nn.Linear(8, 4).to(dtype)
    load.modules.append(head)
    labels = torch.tensor([0, -100, 3, 1, -100, -100, -100])
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=dtype)
    values = torch.full((SAMPLES, 4), float("nan"), dtype=dtype)
    values[2:4], values[0, 1] = 0.5, -1.0
    load.batch.update(
        labels=labels, values=values, mask=(~values.isnan()).to(dtype), none=torch.full_like(labels, -100)
    )

    def masked(out: Tensor, y: Tensor) -> Tensor:
        return ((out - y.nan_to_num()) ** 2 * ~y.isnan()).sum() / (~y.isnan()).sum()

    tasks = {
        "ignored labels": Task(head, nn.CrossEntropyLoss(), "labels", count=count_labels("labels")),
        "class weights": Task(
            head, nn.CrossEntropyLoss(weight), "labels", 0.3, count_labels("labels", weight=weight)
        ),
        "missing values": Task(head, masked, "values", count=count_present("values")),
        "mask": Task(head, masked, lambda b: b["values"], count=count_mask("mask")),
        "absent: no count": Task(head, nn.CrossEntropyLoss(), "none", count=count_labels("none")),
        "absent: no target": Task(head, nn.CrossEntropyLoss(), "nowhere"),
    }  # fmt: skip
    return rewrapped(load, **{name: tasks[name]})


for _name in ("ignored labels", "class weights", "missing values", "mask", "absent: no count", "absent: no target"):
    situation(_name, "counts")(functools.partial(counted, name=_name))
