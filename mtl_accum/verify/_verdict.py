"""What was found out about editions, as a table and as attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_accum.report import markdown_table
from mtl_accum.verify._judge import Agreement

__all__ = ["Check", "CheckedEdition"]

_COLUMNS = ["edition", "dtype", "losses", "gradients", "buffers", "random stream", "rounding", "verdict"]


@dataclass(frozen=True)
class CheckedEdition:
    """What was found out about one edition.

    Attributes:
        own: in the model's precision; None if the edition refused or failed.
        double: in float64; None if that could not be had.
        without: why `double` could not be had.
        refusal: the edition's own words, if it refused this model.
        failure: the error in one line, if the edition raised one that is no refusal.
        missing: parameters that get a gradient from `SummedLoss` and none from this edition.
        reason: what the difference comes from, as far as an experiment showed it.
        undecided: why nothing can be concluded; empty where something can.
    """

    own: Agreement | None = None
    double: Agreement | None = None
    without: str = ""
    refusal: str = ""
    failure: str = ""
    missing: tuple[str, ...] = ()
    reason: str = ""
    undecided: str = ""

    @property
    def decisive(self) -> Agreement | None:
        """The comparison that decides: in float64 a wrong gradient cannot hide behind rounding."""
        return self.double or self.own

    @property
    def gradient_difference(self) -> float | None:
        """The largest difference of the gradients in the comparison that decides; None if there is none."""
        return None if self.decisive is None else self.decisive.gradients

    @property
    def verdict(self) -> str:
        """One of "exact", "refused", "not decided", "DIFFERS", "failed"."""
        if self.refusal:
            return "refused"
        if self.failure or self.decisive is None:
            return "failed"
        if self.missing or not self.decisive.exact():
            return "DIFFERS"
        return "not decided" if self.undecided else "exact"

    def passed(self) -> bool:
        """Whether the edition is exact here, or says itself that it cannot be."""
        return self.verdict in ("exact", "refused")


@dataclass(frozen=True)
class Check:
    """The result for every edition.

    Attributes:
        editions: by name.
        idle: trainable parameters that get no gradient from `SummedLoss` either.
        absent: tasks that have nothing to learn from this batch.
    """

    editions: Mapping[str, CheckedEdition]
    idle: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def passed(self) -> bool:
        """Whether every edition passed."""
        return all(edition.passed() for edition in self.editions.values())

    def __str__(self) -> str:
        rows, words = [_COLUMNS], dict[str, list[str]]()
        for name, edition in self.editions.items():
            rows.append([name, *_cells(edition.own, "own"), edition.verdict])
            if not edition.refusal and not edition.failure:
                rows.append([name, *_cells(edition.double, "float64"), edition.verdict])
            for line in (edition.refusal, edition.failure, edition.without, edition.reason, edition.undecided):
                if line:
                    words.setdefault(line, []).append(name)
        notes = [f"{', '.join(names)}: {line}" for line, names in words.items()]
        if self.absent:
            notes.append(f"absent from this batch, so not checked: task {', '.join(map(repr, self.absent))}")
        if self.idle:
            notes.append(f"no gradient from SummedLoss either: {', '.join(self.idle)}")
        return "\n".join([*markdown_table(rows), "", *(f"  {note}" for note in notes)])


def _cells(agreement: Agreement | None, dtype: str) -> list[str]:
    if agreement is None:
        return [dtype, *["–"] * 5]
    figures = [f"{value:.1e}" for value in (agreement.losses, agreement.gradients, agreement.buffers)]
    rounding = "–" if agreement.rounding is None else f"{agreement.rounding:.1e}"
    stream = "same" if agreement.random else "elsewhere"
    return [str(agreement.dtype).removeprefix("torch."), *figures, stream, rounding]
