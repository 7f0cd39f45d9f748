"""Text that a person has chosen, such as the name of a task, for Markdown and for files."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["code", "file_name", "plain"]

_MARKUP = re.compile(r"[\\`*\[\]<>$~&#]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word means nothing
_AT_THE_START = re.compile(r"^(\d*)([-+=.)])(?=[-+=\s]|$)")  # of a list or a rule
_LONGEST = 100  # characters of a file's name


def plain(text: str) -> str:
    """Escape what Markdown, or the mathematics in it, would take for markup; on one line."""
    return _AT_THE_START.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", " ".join(text.split())))


def code(text: str) -> str:
    """Put a text between as many backticks as it takes; on one line."""
    line = " ".join(text.splitlines())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def file_name(text: str, taken: Collection[str] = ()) -> str:
    """Turn a text into a name that any file may have, in its folder, and that is not taken."""
    name = re.sub(r"[^\w.-]", "_", text)[:_LONGEST].lstrip(".") or "_"
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)
