"""Escaping of free text, such as the name of a task, for Markdown and file names."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["code", "file_name", "plain"]

_MARKUP = re.compile(r"[\\`*\[\]<>$~&#]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is no markup
_AT_THE_START = re.compile(r"^(\d*)([-+=.)])(?=[-+=\s]|$)")  # of a list or a rule
_LONGEST = 100  # characters of a file's name


def plain(text: str) -> str:
    """Return a text on one line, with the characters escaped that Markdown or its mathematics take for markup."""
    return _AT_THE_START.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", " ".join(text.split())))


def code(text: str) -> str:
    """Return a text on one line as code, between more backticks than it holds itself."""
    line = " ".join(text.splitlines())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def file_name(text: str, taken: Collection[str] = ()) -> str:
    """Turn a text into a valid file name.

    Args:
        text: Any text.
        taken: Names that the result must differ from.
    """
    name = re.sub(r"[^\w.-]", "_", text)[:_LONGEST].lstrip(".") or "_"
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(candidate for candidate in (name, *numbered) if candidate not in taken)
