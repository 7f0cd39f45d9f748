"""The house rules that a machine can hold: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtl_accum"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each layer may import those before it; the rooms of one set do not import each other. A room is a package or a file:
# its own files may import each other's private names, everybody else what its `__init__` exports.
LAYERS = [
    {"_lazy", "_lock", "_logs", "_optimizers", "_renamed", "_torch_pytree", "_validate", "report"},
    {"_scaled", "_train_settings", "_state"},
    {"_knob_rules"},
    {"editions._engine"},
    {"editions"},
    {"data", "memory", "models"},
    {"prediction"},
    {"verify"},
    {"measure"},
    {"planning"},
    {"training.checkpoint"},
    {"training.loop"},
    {"training.evaluation"},
    {"training.callbacks"},
    {"training"},
    {"jobs"},
    {"_hydra_config", "_error_line", "_sweep"},
    {"__main__"},
    {"testing"},  # last: nothing in the package imports it
]
ROOMS = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
EDGE = {"__main__", "_sweep", "_error_line", "_hydra_config"}
ONLY_IN = {
    "hydra": EDGE | {"testing._shapes"},
    "omegaconf": EDGE,
    "pynvml": {"memory._nvml"},
    "torch.utils._pytree": {"_torch_pytree"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports; of a submodule of the package, the submodule."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= names if node.module in ("mtl_accum", "torch.utils") else {node.module}
    return modules


def room_of(module: str) -> str:
    """Return the innermost room that a module, by its name below the package, stands in."""
    return max((room for room in ROOMS if module == room or module.startswith(f"{room}.")), key=len)


def imports_of_ours(path: Path) -> set[str]:
    return {module.removeprefix("mtl_accum.") for module in imports(path) if module.startswith("mtl_accum.")}


def test_imports_run_one_way() -> None:
    wrong = []
    for path in FILES:
        if path == PACKAGE / "__init__.py":
            continue  # resolves names lazily; held by the test below
        here = room_of(name_of(path))
        rooms = {room_of(module) for module in imports_of_ours(path)} - {here}
        wrong += [f"{name_of(path)} imports {room}" for room in rooms if ROOMS[room] >= ROOMS[here]]
    assert wrong == []


def test_no_room_imports_a_private_file_of_another() -> None:
    wrong = []
    for path in FILES:
        if path == PACKAGE / "__init__.py":
            continue
        here = room_of(name_of(path))
        for module in imports_of_ours(path):
            room = room_of(module)
            private = module.removeprefix(room).startswith("._")
            if room != here and private:
                wrong.append(f"{name_of(path)} imports {module}")
    assert wrong == []


def test_tests_and_studies_do_not_import_each_other() -> None:
    """What both use is in `mtl_accum.testing`; a test of a study may import that study."""
    of_studies = {ROOT / "tests" / name for name in ("experiments", "docs", "test_experiments.py")}
    wrong = []
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        other = "tests" if (ROOT / "experiments") in path.parents else "experiments"
        if not of_studies & {path, *path.parents}:
            wrong += [f"{path} imports {module}" for module in imports(path) if module.partition(".")[0] == other]
    assert wrong == []


def test_no_test_imports_another_test() -> None:
    """What several tests use is in a module that holds no tests."""
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        others = {module for module in imports(path) if re.match(r"tests\b.*\.test_", module)}
        wrong += [f"{path} imports {module}" for module in others]
    assert wrong == []


def test_studies_import_public_names_alone() -> None:
    wrong = []
    for path in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mtl_accum"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                wrong += [f"{path} imports {name}" for name in names if "._" in name]
    assert wrong == []


def test_outside_packages_stay_in_their_files() -> None:
    for path in FILES:
        for module in imports(path):
            for outside, files in ONLY_IN.items():
                if f"{module}.".startswith(f"{outside}."):
                    assert name_of(path) in files, f"{outside} belongs into {files}"


def test_report_imports_nothing_of_ours_and_no_torch() -> None:
    for path in (PACKAGE / "report").glob("*.py"):
        assert not {m for m in imports(path) if m.startswith("torch")}, path
        assert all(m.startswith("mtl_accum.report") for m in imports(path) if m.startswith("mtl_accum")), path


def test_editions_need_torch_alone() -> None:
    for path in [*(PACKAGE / "editions").rglob("*.py"), *(PACKAGE / "_state").rglob("*.py")]:
        outside = {m.partition(".")[0] for m in imports(path)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "mtl_accum"}, path


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in [*FILES, *(ROOT / "tests").rglob("*.py")]}
    assert {str(path): length for path, length in lengths.items() if length > 300} == {}


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
def test_what_an_import_does_not_load(statement: str, absent: Any) -> None:
    code = f"{statement}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    import mtl_accum

    assert set(mtl_accum.__all__) == set(mtl_accum._HOMES) <= set(dir(mtl_accum))
    for name in mtl_accum.__all__:
        assert getattr(mtl_accum, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mtl_accum.nothing
