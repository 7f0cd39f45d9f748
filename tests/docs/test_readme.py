"""The README's code runs as it stands, and its commands are the ones that are tested."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import mtl_accum
from tests.processes import Forked

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


every_block = pytest.mark.parametrize("code", BLOCKS, ids=[block.splitlines()[2] for block in BLOCKS])


@every_block
def test_code_block(tmp_path: Path, code: Any) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    with Forked(runpy.run_path, str(script), None, "__main__", cwd=tmp_path) as process:
        _, stderr = process.communicate(300)
        assert process.returncode == 0, stderr


@pytest.mark.slow
@every_block
def test_code_block_as_a_script(tmp_path: Path, code: Any) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, check=False, cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_blocks_are_short() -> None:
    assert len(BLOCKS) == 8
    assert len([line for line in BLOCKS[1].splitlines() if line.strip()]) <= 15


def test_your_own_model_and_data(tmp_path: Path) -> None:
    (code,) = (block for block in BLOCKS if "class Houses" in block)
    (config,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    lines = [line for line in (code + config).splitlines() if line.strip()]
    assert len(lines) < 60
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment" / "mine.yaml").write_text(config)
    command = "python -m mtl_accum --config-dir my_conf +experiment=mine"
    assert f"    {command}\n" in README
    done = mtl_accum(*command.split()[3:], "epochs=40", "compare.steps=1", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"]["accuracy"] > 0.9  # chance is 0.5
    assert [row["edition"] for row in report["editions"]] == ["summed", "per_task", "split"]


def test_ci_calls_the_test_command_word_for_word() -> None:
    command = 'pip install -c constraints.txt -e ".[test]" && pytest'
    assert f"    {command}\n" in README
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()


def test_constraints_pin_every_dependency() -> None:
    pins = (ROOT / "constraints.txt").read_text().lower()
    named = re.findall(r'^  "([a-z0-9-]+)[>\[]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {"torch", "hydra-core", "pytest"} <= set(named)
    assert [name for name in named if name != "mtl-accum" and f"\n{name}==" not in pins] == []


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
