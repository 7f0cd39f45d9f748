"""Number of statements of a method."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

__all__ = ["lines_of"]


def lines_of(train: Callable[..., Any]) -> int:
    """Count the statements in a function's body, with its imports, loop and optimizer, without docstrings.

    A statement is a line however it is wrapped; `for`, `with`, `class` and `def` are one each, and their bodies count.
    """
    function = ast.parse(textwrap.dedent(inspect.getsource(train))).body[0]
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt) and node is not function]
    return sum(not _is_docstring(node) for node in statements)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
