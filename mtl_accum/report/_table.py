"""Comparison table of editions: columns with their meanings, notes, and a conclusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from mtl_accum.report._escape import plain

__all__ = [
    "Row",
    "Table",
    "difference",
    "editions_table",
    "markdown_table",
    "mib",
    "milliseconds",
    "peak_bytes",
    "peak_source",
    "plain_table",
    "record_of",
    "samples_per_second",
    "step_time",
]

Row = Mapping[str, Any]
_NONE = "–"


@dataclass(frozen=True)
class Table:
    """Table with its notes and conclusion.

    Attributes:
        columns: Headings of the columns.
        rows: Cells of each row, with a dash where nothing was measured.
        notes: Meanings of columns and editions, and all caveats.
        conclusion: Conclusion in one sentence.
    """

    columns: list[str]
    rows: list[list[str]]
    notes: list[str]
    conclusion: str


@dataclass(frozen=True)
class _Column:
    heading: str
    meaning: str
    cell: Callable[[Row, Row], str]  # of the row, and of the row that it is compared with


def editions_table(report: Mapping[str, Any]) -> Table:
    """Return the table of a report's editions; the first one is the reference of the others."""
    rows: list[Row] = report["editions"]
    first = rows[0]
    source = peak_source(report)
    columns = _columns(source, first["edition"], report.get("samples"))
    notes = [f"{column.heading}: {column.meaning}." for column in columns if column.meaning]
    notes += [f"{_name(row)}:{row['meaning'].partition(':')[2] or ' ' + row['meaning']}" for row in rows]
    incomplete = "could not be predicted" if source == "predicted" else "was not measured completely"
    notes += [f"{row['edition']} {incomplete}: {row['failure']}" for row in rows if row["failure"]]
    notes += [
        f"absent from this batch: task {name}" for name in sorted({n for row in rows for n in row.get("absent", ())})
    ]
    notes += sorted({caveat for row in rows for record in row["memory"] for caveat in record["caveats"]})
    return Table(
        columns=["edition", *(column.heading for column in columns)],
        rows=[[row["edition"], *(column.cell(row, first) for column in columns)] for row in rows],
        notes=notes,
        conclusion=_conclusion(rows, source),
    )


def markdown_table(cells: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table; cells may hold Markdown.

    Args:
        cells: Cells of each row, headings first.
    """
    escaped = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in cells]
    rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
    return ["| " + " | ".join(row) + " |" for row in (escaped[0], rule, *escaped[1:])]


def plain_table(cells: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table whose cells are plain text."""
    return markdown_table([[plain(cell) for cell in row] for row in cells])


def peak_source(report: Mapping[str, Any]) -> str:
    """Return the source of the compared peaks: "cuda" on a GPU, "tensors" elsewhere, "predicted" for a prediction."""
    if report["kind"] == "prediction":
        return "predicted"
    return "cuda" if report["device"]["type"] == "cuda" else "tensors"


def peak_bytes(row: Row, source: str, key: str = "peak_bytes") -> int | None:
    """Return a figure of an edition in bytes; None if it was not measured.

    Args:
        row: Edition of a report.
        source: Source of the record: "cuda", "tensors", "process" or "predicted".
        key: Name of the figure.
    """
    record = record_of(row, source)
    return None if record is None else record[key]


def record_of(row: Row, source: str) -> Mapping[str, Any] | None:
    """Return an edition's record from one source; None if it was not measured."""
    return next((record for record in row["memory"] if record["source"] == source), None)


def mib(size: float | None) -> str:
    """Format bytes as MiB with one decimal; as KiB below 0.05 MiB, and as GiB from 10 GiB on."""
    if size and abs(size) >= 10 * 2**30:
        return f"{size / 2**30:.1f} GiB"
    if size and abs(size) < 0.05 * 2**20:
        return f"{size / 2**10:.1f} KiB"
    return _NONE if size is None else f"{size / 2**20:.1f} MiB"


def _columns(source: str, first: str, samples: int | None) -> list[_Column]:
    if source == "predicted":
        return [
            _size("predicted peak", "the most that tensors and workspaces would hold at once during one step", source),
            _against_memory(source, first),
            _size(
                "reserved", "the pool that CUDA's allocator, simulated, would hold for that", source, "reserved_bytes"
            ),
            _Column("predicted in", "the time that this prediction took here", _predicted_in),
        ]
    if source == "cuda":
        memory = [
            _size(
                "allocated, peak",
                "the most that torch's allocator had handed out to tensors during one step",
                source,
            ),
            _against_memory(source, first),
            _size("reserved, peak", "the pool that it held for that", source, "reserved_bytes"),
            _size(
                "NVML, process",
                "memory of the process by the driver: pool, context and libraries",
                source,
                "process_bytes",
            ),
            _size(
                "NVML, device",
                "used memory of the whole device, other processes included",
                source,
                "device_bytes",
            ),
        ]
    else:
        memory = [
            _size(
                "live tensors, peak",
                "the most bytes of tensors that were alive at once during one step",
                source,
            ),
            _against_memory(source, first),
            _size(
                "process, peak",
                "the most resident memory of the whole process, Python and its libraries included",
                "process",
            ),
        ]
    return [
        *memory,
        _Column(
            "step",
            "time of one step with its optimizer, median (smallest to largest), in another process than the memory",
            _step,
        ),
        _Column(f"time / {first}", "", lambda row, base: _ratio(step_time(row), step_time(base))),
        _Column("samples / s", "", lambda row, _: samples_per_second(row, samples)),
        _Column(
            "gradient difference",
            "largest over the parameters of ||g - g_ref|| / max(||g_ref||, 0.001 ||whole g_ref||), g_ref by SummedLoss"
            "; up to 1e-05 in float32 it is rounding, and (rounding) marks a larger one that is no larger than the "
            "network's own rounding, measured with SummedLoss against itself",
            lambda row, _: difference(row),
        ),
    ]


def _size(heading: str, meaning: str, source: str, key: str = "peak_bytes") -> _Column:
    return _Column(heading, meaning, lambda row, _: mib(peak_bytes(row, source, key)))


def _against_memory(source: str, first: str) -> _Column:
    return _Column(f"memory / {first}", "", lambda row, base: _ratio(peak_bytes(row, source), peak_bytes(base, source)))


def _step(row: Row, _: Row) -> str:
    if not row["step_seconds"]:
        return _NONE
    middle, low, high = (1000 * statistic(row["step_seconds"]) for statistic in (median, min, max))
    return f"{middle:.1f} ({low:.1f} to {high:.1f}) ms"


def samples_per_second(row: Row, samples: int | None) -> str:
    """Format the samples per second of a step."""
    step = step_time(row)
    return f"{samples / step:.0f}" if samples and step else _NONE


def difference(row: Row) -> str:
    """Format the difference of an edition's gradient from that of the summed loss."""
    if row["gradient_difference"] is None:
        return _NONE
    return f"{row['gradient_difference']:.1e}{' (rounding)' * bool(row.get('gradient_rounding'))}"


def milliseconds(step: float | None) -> str:
    """Format seconds as milliseconds with one decimal."""
    return _NONE if step is None else f"{1000 * step:.1f} ms"


def _predicted_in(row: Row, _: Row) -> str:
    return f"{row['predicted_in_seconds']:.1f} s"


def step_time(row: Row) -> float | None:
    """Return the median of the timed steps; None if there are none."""
    return median(row["step_seconds"]) if row["step_seconds"] else None


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value is not None and base else _NONE


def _conclusion(rows: list[Row], source: str) -> str:
    """Return a sentence on the memory and time of the other editions relative to the first one."""
    base, parts = rows[0], []
    base_peak, base_seconds = peak_bytes(base, source), step_time(base)
    for row in rows[1:]:
        peak, seconds = peak_bytes(row, source), step_time(row)
        if peak is None or not base_peak:
            continue
        saved = 100 * (1 - peak / base_peak)
        verb = ("saves", "needs") if source == "predicted" else ("saved", "needed")
        part = f"{_name(row)} {verb[saved < 0]} {abs(saved):.1f} %{'' if saved >= 0 else ' more'}"
        part += f" ({mib(peak)} instead of {mib(base_peak)})"
        if seconds is not None and base_seconds:
            part += f" at {seconds / base_seconds:.2f} times the time per step"
        parts.append(part)
    if len(rows) == 1 and base_peak:
        step = f", and {milliseconds(base_seconds)} a step" if base_seconds else ""
        return f"{_name(base)}: a peak of {mib(base_peak)}{step}."
    if not parts:
        return "There is nothing to compare; the notes list what could not be measured, and why."
    predicted = "predicted " if source == "predicted" else ""
    return f"Of the {predicted}peak memory of {_name(base)}, {'; '.join(parts)}."


def _name(row: Row) -> str:
    """Return the title of an edition with its name in the table where they differ: "Edition 2 (per_task)"."""
    title, colon, _ = row["meaning"].partition(":")
    return row["edition"] if not colon or title.lower() == row["edition"] else f"{title} ({row['edition']})"
