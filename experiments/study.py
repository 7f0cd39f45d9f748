"""Report of a study: a Markdown page, with every figure in JSON beside it."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mtl_accum.report import markdown_table, timestamp
from mtl_accum.training.loop import describe_device

__all__ = ["MIB", "Report", "environment", "known", "parser"]

MIB = 2**20


class Report:
    """A study's `README.md` and `results.json`, written together.

    Args:
        folder: Folder of the study.
        title: Title of the page.
        question: Question of the study, in a sentence or two.
        command: Command that repeats the study.
    """

    def __init__(self, folder: Path, title: str, question: str, command: str) -> None:
        self._folder = folder
        self._lines = [f"# {title}", "", f"**Question.** {question}", "", f"    {command}", ""]
        self._content: dict[str, Any] = {"title": title, "command": command, "created": timestamp()}
        self._tables: dict[str, list[list[str]]] = {}

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        for paragraph in paragraphs:
            self._lines += [paragraph, ""]

    def section(self, heading: str, *paragraphs: str) -> None:
        """Begin a section."""
        self._lines += [f"## {heading}", ""]
        self.text(*paragraphs)

    def items(self, *items: str) -> None:
        """Add a list."""
        self._lines += [*(f"- {item}" for item in items), *([""] if items else [])]

    def table(self, rows: Sequence[Sequence[str]], name: str = "") -> None:
        """Add a table, its heading first; under a name `tables` of `results.json` has it too, for the README."""
        if name:
            self._tables[name] = [list(row) for row in rows]
        self._lines += [*markdown_table([list(row) for row in rows]), ""]

    def picture(self, name: str, alt: str) -> None:
        """Show a PNG of the folder."""
        self._lines += [f"![{alt}]({name})", ""]

    def write(self, results: Mapping[str, Any], device: torch.device) -> None:
        """Write both files.

        Args:
            results: Every figure, in types of JSON.
            device: Device of the measurements.
        """
        content = {**self._content, "device": describe_device(device), "versions": environment(), **results}
        if self._tables:
            content["tables"] = self._tables
        self._folder.mkdir(parents=True, exist_ok=True)
        page = "\n".join(self._lines).rstrip() + "\n"
        (self._folder / "README.md").write_text(page, encoding="utf-8")
        (self._folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parser(description: str | None, folder: Path, scale: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that studies share: `--device`, `--scale`, `--folder`.

    Args:
        description: Docstring of the study.
        folder: Default folder of the report.
        scale: Help text of `--scale`.
    """
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto")
    arguments.add_argument("--scale", type=float, help=scale)
    arguments.add_argument("--folder", type=Path, default=folder, help="where the report goes")
    return arguments


def known(size: int | None) -> int:
    """Return a size in bytes that a meter or a prediction must have.

    Raises:
        RuntimeError: There is none.
    """
    if size is None:
        raise RuntimeError("expected a size in bytes, found none")
    return size


def environment() -> dict[str, str]:
    """Return the versions that figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__}
