"""The `check` job: hold an experiment's editions against the summed loss, on its own model and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_accum import report
from mtl_accum.editions import EditionLike, samples_of
from mtl_accum.editions._engine import take
from mtl_accum.jobs._experiment import Experiment
from mtl_accum.jobs._require import require_editions, require_kind
from mtl_accum.jobs._run import Run
from mtl_accum.verify import _check

__all__ = ["check"]


def check(*, experiment: Experiment, editions: Mapping[str, EditionLike], run: Run) -> None:
    """Hold editions against `SummedLoss` on the first training batch, print the table, and write it to `check.md`.

    The last sample of a batch of even size is left out, so pieces are of unequal size.

    Args:
        experiment: Model, data, optimizer, device and seed; the optimizer tells which parameters are trained.
        editions: Editions to check, by name.
        run: Folder for `check.md`.

    Raises:
        ValueError: An edition is not exact on this model, or nothing could be decided.
    """
    require_kind("job.experiment", experiment, Experiment)
    require_editions("check.editions", editions)
    prepared = experiment.prepare()
    model, batch = prepared.model, _odd(prepared.first_batch())
    result = _check.check(model.trunk, model.tasks, batch, optimizer=prepared.optimizer, editions=editions)
    page = f"# {run.command}\n\n{result}\n"
    report.write_whole(run.folder, {"check.md": lambda path: path.write_text(page, encoding="utf-8")})
    for verdicts, failure in ((("DIFFERS", "failed"), "not exact on this model"), (("not decided",), "not decided")):
        names = ", ".join(name for name, edition in result.editions.items() if edition.verdict in verdicts)
        if names:
            raise ValueError(f"{failure}: {names}; see the reasons above")


def _odd(batch: Any) -> Any:
    """Leave out the last sample of an even number: pieces of equal size would hide a wrong weight."""
    try:
        samples = samples_of(batch, "batch")
        return batch if samples % 2 or samples < 3 else take(batch, (0, samples - 1))
    except (TypeError, ValueError):  # cannot be cut; editions in pieces report that themselves
        return batch
