"""The house rules that a machine can hold: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtl_accum"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each layer may import those before it; what stands in one set shares a layer.
LAYERS = [
    {"_lock", "_logs", "_optimizers", "_run", "_validate", "report"},
    {"editions", "_knobs"},
    {"memory", "models", "_absent", "_difference", "_fresh_batch", "_hidden_state", "_no_dropout"},
    {"_trial", "data"},
    {"_oracle", "_restore", "_rounding"},
    {"_judge"},
    {"_bench", "_causes", "_verdict"},
    {"_compare", "_check"},
    {"planning"},
    {"training"},
    {"_sweep", "_one_line", "_configuration"},
    {"__main__"},
]
EDGE = {"__main__", "_sweep", "_one_line", "_configuration"}
ONLY_IN = {"hydra": EDGE, "omegaconf": EDGE, "pynvml": {"memory._nvml"}}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "mtl_accum" else {node.module}
    return found


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path):
    if path == PACKAGE / "__init__.py":
        return  # resolves names lazily; held by the test below
    mine = name_of(path).partition(".")[0]
    for module in imports(path):
        root, _, rest = module.partition(".")
        assert name_of(path) in ONLY_IN.get(root, {name_of(path)}), f"{root} belongs into {ONLY_IN.get(root)}"
        if root == "mtl_accum" and rest:
            theirs = rest.partition(".")[0]
            assert theirs == mine or layer(theirs) < layer(mine), f"{mine} imports {theirs}"


def test_report_imports_nothing_of_ours_and_no_torch():
    for path in (PACKAGE / "report").glob("*.py"):
        assert not {m for m in imports(path) if m.startswith("torch")}, path
        assert all(m.startswith("mtl_accum.report") for m in imports(path) if m.startswith("mtl_accum")), path


def test_editions_need_torch_alone():
    for path in (PACKAGE / "editions").glob("*.py"):
        outside = {m.partition(".")[0] for m in imports(path)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "mtl_accum"}, path


@pytest.mark.parametrize(
    "path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_file_is_longer_than_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mtl_accum", ["torch", "hydra", "omegaconf", "pynvml", "torchjd", "matplotlib"]),
        ("import mtl_accum.report", ["torch", "hydra", "matplotlib"]),
        ("import mtl_accum.__main__", ["torch"]),
        (
            "from mtl_accum import Split",
            ["hydra", "omegaconf", "torchjd", "rich", "sklearn"],
        ),  # torch itself loads pynvml
    ],
)
def test_what_an_import_does_not_load(statement, absent):
    code = f"{statement}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_public_names():
    import mtl_accum

    assert set(mtl_accum.__all__) == set(mtl_accum._HOMES) <= set(dir(mtl_accum))
    for name in mtl_accum.__all__:
        assert getattr(mtl_accum, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mtl_accum.nothing
