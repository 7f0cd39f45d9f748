"""Versions that stand in several files are the same in all of them."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import mtl_accum

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))


def read_yaml(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return content


def test_hooks_before_a_commit_have_the_pinned_ruff() -> None:
    hooks = read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]
    required = {name for hook in hooks for name in hook.get("additional_dependencies", ())}
    assert {name for name in required if name.startswith("ruff")} == {f"ruff=={PINS['ruff']}"}


def test_citation_has_the_version_and_the_home_of_the_package() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == mtl_accum.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]


def varied() -> list[dict[str, str]]:
    """Return the rows of the workflow that vary a factor."""
    vary = read_yaml(".github/workflows/checks.yml")["jobs"]["vary"]
    rows: list[dict[str, str]] = vary["strategy"]["matrix"]["include"]
    return rows


def test_workflow_runs_every_python_of_the_classifiers() -> None:
    steps = read_yaml(".github/workflows/checks.yml")["jobs"]["gate"]["steps"]
    (gate,) = (step["with"]["python-version"] for step in steps if "with" in step)
    named = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    assert {gate, *(row["python"] for row in varied())} == named
    assert PROJECT["requires-python"] == f">={min(named)}"


def test_workflow_varies_factors_that_the_script_has() -> None:
    script = (ROOT / ".ci" / "vary").read_text(encoding="utf-8")
    assert {row["factor"] for row in varied()} == set(re.findall(r"^  ([\w-]+)\) ", script, re.MULTILINE))


def test_lowest_versions() -> None:
    lowest = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))["lowest"]
    assert lowest(["torch>=2.9", "torchjd[quadprog_projector]>=0.18"]) == ["torch==2.9", "torchjd==0.18"]
    assert lowest([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])
    with pytest.raises(ValueError, match="expected NAME>=VERSION, found 'torch'"):
        lowest(["torch"])
