"""Results of a check of editions, as attributes and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_accum.report import markdown_table
from mtl_accum.verify._judge import Agreement

__all__ = ["Check", "CheckedEdition"]

_COLUMNS = ["edition", "dtype", "losses", "gradients", "buffers", "random stream", "rounding", "verdict"]


@dataclass(frozen=True)
class CheckedEdition:
    """Result of a check of one edition.

    Attributes:
        own: Comparison in the model's precision; None if the edition refused or failed.
        double: Comparison in float64; None if the network does not run in float64.
        without: Reason why there is no `double`; empty otherwise.
        refusal: Message of the edition, if it refused this model.
        failure: Error in one line, if the edition raised one that is no refusal.
        missing: Names of the parameters that get a gradient from `SummedLoss` and none from this edition.
        reason: Cause of the difference, as far as an experiment showed it.
        undecided: Reason why the comparison proves nothing; empty otherwise.
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
        """The comparison that decides: the one in float64, if there is one, since its rounding is small."""
        return self.double or self.own

    @property
    def gradient_difference(self) -> float | None:
        """The largest difference of the gradients in the comparison that decides; None without a comparison."""
        return None if self.decisive is None else self.decisive.gradients

    @property
    def verdict(self) -> str:
        """Verdict "exact", "refused", "not decided", "DIFFERS" or "failed"."""
        if self.refusal:
            return "refused"
        if self.failure or self.decisive is None:
            return "failed"
        if self.missing or not self.decisive.exact():
            return "DIFFERS"
        return "not decided" if self.undecided else "exact"

    def passed(self) -> bool:
        """Return whether the edition is exact for this network, or refused it."""
        return self.verdict in ("exact", "refused")


@dataclass(frozen=True)
class Check:
    """Result of a check of several editions.

    Attributes:
        editions: Results by the editions' names.
        idle: Names of the trainable parameters that get no gradient from `SummedLoss` either.
        absent: Names of the tasks without a target in this batch, or with a count of 0.
    """

    editions: Mapping[str, CheckedEdition]
    idle: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def passed(self) -> bool:
        """Return whether every edition passed."""
        return all(edition.passed() for edition in self.editions.values())

    def __str__(self) -> str:
        rows, remarks = [_COLUMNS], dict[str, list[str]]()
        for name, edition in self.editions.items():
            rows.append([name, *_cells(edition.own, "own"), edition.verdict])
            if not edition.refusal and not edition.failure:
                rows.append([name, *_cells(edition.double, "float64"), edition.verdict])
            for line in (edition.refusal, edition.failure, edition.without, edition.reason, edition.undecided):
                if line:
                    remarks.setdefault(line, []).append(name)
        notes = [f"{', '.join(names)}: {line}" for line, names in remarks.items()]
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
