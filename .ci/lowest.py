"""Constraints for pip with the lowest versions that `pyproject.toml` admits.

    python .ci/lowest.py test > lowest.txt && pip install -c lowest.txt -e ".[test]"

The arguments are the extras that are to be installed. Every `>=` becomes `==`; what the packages in turn require is
left to pip.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOUND = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<version>[\w.]+)$")


def lowest(requirements: list[str]) -> list[str]:
    """Turn each lower bound into an exact version.

    Raises:
        ValueError: A requirement is anything other than a name with a lower bound.
    """
    pins = []
    for requirement in requirements:
        bound = BOUND.match(requirement)
        if bound is None:
            raise ValueError(f"pyproject.toml: expected NAME>=VERSION, found {requirement!r}; state the lower bound")
        pins.append(f"{bound['name']}=={bound['version']}")
    return pins


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in sys.argv[1:] for requirement in project["optional-dependencies"][extra]]
    print("\n".join(lowest([*project["dependencies"], *extras])))
