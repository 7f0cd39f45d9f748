"""Check of the README's measured figures against the committed reports.

python -m experiments.readme            # exits with 1 and a diff where they disagree
python -m experiments.readme --write    # puts the reports' figures into the README

A table of a report, by the name that `Report.table` gave it, or by its number on a page without JSON:

    <!-- from experiments/two_task/results.json: editions -->
    | ... |
    <!-- end -->

A figure in a sentence: study, path in its `results.json`, and a format of Python with a unit where it is to be
converted (bytes to MiB, GiB; seconds to ms, µs; a share to %). Not at the beginning of a line, where Markdown would
take the whole line for HTML:

    took <!--= two_task: repeated.time.split.low: .2f -->0.95<!--/--> of the time and
    at most <!--= two_task: editions.split.peak_bytes.tensors: .1f MiB -->78.3 MiB<!--/-->
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_accum.report import markdown_table

__all__ = ["Bound", "bound", "main", "replaced", "unbound"]

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(
    r"^<!-- from (?P<file>\S+): (?P<name>.+?) -->\n(?P<text>.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"<!--= (?P<study>\w+): (?P<path>[^:]+): (?P<spec>.+?) -->(?P<text>.*?)<!--/-->", re.DOTALL)
_MARK = re.compile(r"<!-- from |<!-- end -->|<!--=|<!--/-->")
_UNITS = {"MiB": 2**-20, "GiB": 2**-30, "ms": 1e3, "µs": 1e6, "%": 100}

# A figure that may be measured: a number with a unit, "2.4 times", or one with a decimal point.
_MEASURE = r"\d[\d.,]*(?:\s?(?:%|[KMGT]i?B|ms|µs|us|dB|seconds?|minutes?)(?!\w)|\stimes\b)"
_FIGURE = re.compile(_MEASURE + r"|(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])")
_CODE = re.compile(r"^```.*?^```$|^(?: {4}|\t).*?$|`[^`\n]+`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)

# Figures that nobody measured, and the file and text that they follow.
_NOT_MEASURED = {
    "a 12 GB card": None,
    '"I have 6 GiB"': None,
    "kills one 200 times": ("tests/training/checkpoint/test_faults.py", "wanted=200"),
}


@dataclass(frozen=True)
class Bound:
    """A passage of a page that is bound to a report.

    Attributes:
        start: Offset of the passage in the page.
        text: Text of the passage.
        source: File and entry, for people.
        expected: Text by the report.
    """

    start: int
    text: str
    source: str
    expected: str


def bound(page: str, root: Path = ROOT) -> list[Bound]:
    """Return all bound passages of a page, in order.

    Args:
        page: Page in Markdown.
        root: Root folder of the repository.

    Raises:
        ValueError: a mark cannot be read, or leads nowhere; names it.
    """
    passages = [_passage(match, _table(root, match["file"], match["name"])) for match in _BLOCK.finditer(page)]
    passages += [
        _passage(match, _figure(root, *match.group("study", "path", "spec"))) for match in _INLINE.finditer(page)
    ]
    marks = len(_MARK.findall(page))
    if marks != 2 * len(passages):
        raise ValueError(
            f"expected every mark with its end, found {marks} for {len(passages)} passages; see {__file__}"
        )
    first = re.search(r"^[ \t]*<!--[=/].*$", page, re.MULTILINE)
    if first:
        raise ValueError(f"expected no figure's mark at the beginning of a line, found {first[0]!r}; move a word there")
    return sorted(passages, key=lambda one: one.start)


def replaced(page: str, passages: Sequence[Bound]) -> str:
    """Return the page with every passage as in its report."""
    for one in sorted(passages, key=lambda one: -one.start):
        page = page[: one.start] + one.expected + page[one.start + len(one.text) :]
    return page


def differences(page: str, passages: Sequence[Bound]) -> list[str]:
    """Return a unified diff for every passage that differs from its report."""
    lines: list[str] = []
    for one in passages:
        if one.text != one.expected:
            line = page.count("\n", 0, one.start) + 1
            page_side, report_side = (text.strip().splitlines() for text in (one.text, one.expected))
            titles = f"README.md, line {line}", one.source
            lines += difflib.unified_diff(page_side, report_side, *titles, lineterm="")
    return lines


def unbound(page: str, root: Path = ROOT) -> list[str]:
    """Return the lines with figures that look measured and are bound to no report."""
    for pattern in (_BLOCK, _INLINE, _CODE):
        page = pattern.sub(lambda match: "\n" * match[0].count("\n"), page)
    for phrase, follows in _NOT_MEASURED.items():
        if follows is None or follows[1] in (root / follows[0]).read_text(encoding="utf-8"):
            page = re.sub(r"\s+".join(map(re.escape, phrase.split())), lambda match: "\n" * match[0].count("\n"), page)
    lines = enumerate(page.splitlines(), 1)
    return [
        f"README.md, line {number}: {match[0]} is no report's"
        for number, line in lines
        for match in _FIGURE.finditer(line)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the README with the reports, or write it.

    Returns:
        1 where README and reports disagree.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.readme", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the reports' figures into the README")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    options = parser.parse_args(arguments)
    path = options.root / "README.md"
    page = path.read_text(encoding="utf-8")
    try:
        passages = bound(page, options.root)
    except ValueError as error:
        print(f"README.md: {error}", file=sys.stderr)
        return 1
    wrong = unbound(page, options.root)
    if options.write:
        path.write_text(replaced(page, passages), encoding="utf-8")
    else:
        wrong = differences(page, passages) + wrong
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


def _passage(match: re.Match[str], entry: tuple[str, str]) -> Bound:
    source, expected = entry
    return Bound(match.start("text"), match["text"], source, expected)


def _table(root: Path, file: str, name: str) -> tuple[str, str]:
    source = f"{file}: {name}"
    if file.endswith(".md"):
        tables = re.findall(r"(?:^\|.*\n)+", _read(root / file, source), re.MULTILINE)
        if not name.isdecimal() or not 0 < int(name) <= len(tables):
            raise ValueError(f"{source}: expected the number of a table, from 1 to {len(tables)}")
        return source, tables[int(name) - 1]
    tables = _json(root / file, source).get("tables", {})
    if name not in tables:
        raise ValueError(f"{source}: expected one of its tables, {', '.join(tables) or 'of which it has none'}")
    return source, "\n".join(markdown_table(tables[name])) + "\n"


def _figure(root: Path, study: str, path: str, spec: str) -> tuple[str, str]:
    file = f"experiments/{study}/results.json"
    source = f"{file}: {path}"
    value = _json(root / file, source)
    for key in path.split("."):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(f"{source}: found nothing there") from None
    number, _, unit = spec.partition(" ")
    if unit and unit not in _UNITS:
        raise ValueError(f"{source}: expected a unit among {', '.join(_UNITS)}, found {unit!r}")
    return source, f"{value * _UNITS[unit]:{number}} {unit}" if unit else f"{value:{number}}"


def _json(path: Path, source: str) -> Any:
    return json.loads(_read(path, source))


def _read(path: Path, source: str) -> str:
    if not path.is_file():
        raise ValueError(f"{source}: there is no such report")
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
