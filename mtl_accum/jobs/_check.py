"""The job that proves an experiment's editions on its own model and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mtl_accum import report
from mtl_accum.data import Data
from mtl_accum.editions import EditionLike, samples_of
from mtl_accum.editions._engine import take
from mtl_accum.jobs._experiment import MakeOptimizer, Run, make_optimizer
from mtl_accum.jobs._require import require_editions, require_parts
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.loop import resolve, to_device
from mtl_accum.verify import _check

__all__ = ["check"]


def check(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    optimizer: MakeOptimizer,
    editions: Mapping[str, EditionLike],
    device: str,
    seed: int,
    run: Run,
) -> None:
    """Hold editions against `SummedLoss` on the first training batch, print the table, and write it to `check.md`.

    Of an even number of samples the last one is left out, so that pieces are of unequal size.

    Args:
        model: trunk and tasks.
        data: whose first training batch is used.
        optimizer: says which parameters are trainable.
        editions: what to check, by name.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of dropout and noise.
        run: the folder for `check.md`.

    Raises:
        ValueError: a part of the experiment is missing, or an edition is not exact here, or nothing could be decided.
    """
    model, data = require_parts(model, data)
    require_editions("check.editions", editions)
    where = resolve(device)
    torch.manual_seed(seed)
    model.to(where)
    batch = to_device(_odd(next(iter(data.train()))), where)
    found = _check.check(model.trunk, model.tasks, batch, optimizer=make_optimizer(optimizer, model), editions=editions)
    page = f"# {run.command}\n\n{found}\n"
    report.write_whole(run.folder, {"check.md": lambda path: path.write_text(page, encoding="utf-8")})
    for verdicts, words in ((("DIFFERS", "failed"), "not exact on this model"), (("not decided",), "not decided")):
        names = ", ".join(name for name, edition in found.editions.items() if edition.verdict in verdicts)
        if names:
            raise ValueError(f"{words}: {names}; see the reasons above")


def _odd(batch: Any) -> Any:
    """Leave out the last sample where their number is even: pieces of one size would hide a wrong weight."""
    try:
        samples = samples_of(batch, "batch")
        return batch if samples % 2 or samples < 3 else take(batch, (0, samples - 1))
    except (TypeError, ValueError):  # cannot be cut; editions in pieces say so themselves
        return batch
