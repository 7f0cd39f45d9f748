"""All checks that need a CUDA device, in one command: the marked tests, and the editions' memory against predictions.

python -m experiments.cuda.run        # from the repository's root; writes experiments/cuda/README.md and report.json
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from mtl_accum import compare, predict
from mtl_accum.memory import driver_version
from mtl_accum.report import markdown_table
from mtl_accum.testing import MODES, NETWORKS, basic_editions

HERE = Path(__file__).parent
MIB = 2**20
SIZES: dict[str, dict[str, int]] = {
    "convolutional": {"width": 64, "size": 128, "samples": 64},
    "transformer": {"width": 512, "depth": 6, "length": 256, "samples": 64, "classes": 1000},
    "many_heads": {"heads": 64, "width": 1024, "samples": 8192},
}
COLUMNS = ["network", "mode", "edition", "allocated", "predicted", "off", "reserved", "predicted reserved"]
COLUMNS += ["NVML process", "context", "step, ms", "time / summed", "gradient difference"]


def measure(device: torch.device, sizes: Mapping[str, Mapping[str, int]], steps: int) -> list[dict[str, Any]]:
    """Measure and predict each network in each mode with each edition."""
    measurements = []
    for network, size in sizes.items():
        for mode in MODES:
            torch.manual_seed(0)
            model, batch = NETWORKS[network](mode, **size)
            model.to(device)
            on_device = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)
            optimizer = torch.optim.AdamW(model.parameters())
            chosen = basic_editions(size["samples"])
            rows = compare(model.trunk, model.tasks, on_device, optimizer=optimizer, editions=chosen, steps=steps)
            for row in rows:
                edition = chosen[row.edition]
                predicted = predict(
                    model.trunk, model.tasks, on_device, optimizer=optimizer, edition=edition, device=device.type
                )
                measurements.append({"network": network, "mode": mode, **dataclasses.asdict(row)})
                measurements[-1]["predicted"] = dataclasses.asdict(predicted)
                print(network, mode, row.edition, row.failure or "", flush=True)
    return measurements


def table(measurements: list[dict[str, Any]], source: str) -> list[list[str]]:
    """Return the measurements as text; sizes in MiB."""
    rows = [COLUMNS]
    base: float | None = None
    for row in measurements:
        record: dict[str, Any] = next((r for r in row["memory"] if r["source"] == source), {})
        predicted = row["predicted"]
        seconds = median(row["step_seconds"]) if row["step_seconds"] else None
        base = seconds if row["edition"] == "summed" else base
        peak, wanted = record.get("peak_bytes"), predicted["peak_bytes"]
        rows.append(
            [
                *(row["network"], row["mode"], row["edition"]),
                *(_mib(peak), _mib(wanted), "–" if not peak else f"{100 * (wanted / peak - 1):+.1f} %"),
                *(_mib(record.get("reserved_bytes")), _mib(predicted["reserved_bytes"])),
                *(_mib(record.get("process_bytes")), _mib(record.get("context_bytes"))),
                "–" if seconds is None else f"{1000 * seconds:.1f}",
                f"{seconds / base:.2f}" if seconds and base else "–",
                "–" if row["gradient_difference"] is None else f"{row['gradient_difference']:.0e}",
            ]
        )
    return rows


def notes(measurements: list[dict[str, Any]]) -> list[str]:
    """Return the reasons for incomplete rows, and every caveat once."""
    failures = [f"{r['network']} {r['mode']} {r['edition']}: {r['failure']}" for r in measurements if r["failure"]]
    records = [record for row in measurements for record in (*row["memory"], row["predicted"])]
    return failures + sorted({caveat for record in records for caveat in record["caveats"]})


def main() -> None:
    """Run the tests and the measurements, and write the report."""
    if not torch.cuda.is_available():
        sys.exit("experiments.cuda: expected a CUDA device, found none here; nothing was written")
    device = torch.device("cuda", 0)
    properties = torch.cuda.get_device_properties(device)
    files = ["tests/memory/test_cuda.py", "tests/editions/test_cuda.py"]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-m", "cuda", "-s", "-q", *files]
    tests = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    accuracy = [line for line in tests.splitlines() if ": predicted " in line]
    measurements = measure(device, SIZES, steps=10)
    machine = {
        "device": properties.name,
        "memory, GiB": f"{properties.total_memory / 2**30:.0f}",
        "driver": driver_version(),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "python": sys.version.partition(" ")[0],
    }
    (HERE / "report.json").write_text(json.dumps({"machine": machine, "rows": measurements}), encoding="utf-8")
    page = [
        "# The editions, the meters and the prediction on a CUDA device",
        "",
        "    python -m experiments.cuda.run",
        "",
        "Every edition in fresh processes, third step, AdamW; sizes in MiB. `off` is the prediction against the peak",
        "of torch's allocator; `context` is what NVML counts for the process outside the allocator's pool.",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        "",
        *markdown_table(table(measurements, "cuda")),
        "",
        *(f"- {note}" for note in notes(measurements)),
        "",
        "## Tests (`pytest -m cuda -s`)",
        "",
        *(f"    {line}" for line in (*accuracy, *tests.strip().splitlines()[-1:])),
        "",
    ]
    (HERE / "README.md").write_text("\n".join(page), encoding="utf-8")


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / MIB:.1f}"


if __name__ == "__main__":
    main()
