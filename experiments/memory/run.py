"""Agreement of the memory meters and the prediction, and their cost.

python -m experiments.memory.run        # from the repository's root; writes experiments/memory/README.md
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from torch import nn

from experiments.study import MIB, known
from mtl_accum import predict
from mtl_accum.measure import FreshProcess, MeasurementError
from mtl_accum.memory import ProcessMeter, TensorMeter, TrainingStep
from mtl_accum.report import markdown_table
from mtl_accum.testing import MODES, NETWORKS, OPTIMIZERS, basic_editions, profiler_peak, transformer

SIZES: dict[str, dict[str, int]] = {
    "convolutional": {"width": 32, "size": 64, "samples": 24},
    "transformer": {"width": 256, "depth": 4, "length": 128, "samples": 24},
    "many_heads": {"heads": 48, "width": 256, "samples": 8192},
}
CLOSE = 0.01  # of the figure


class Subject:
    """One network in one mode with one edition, for a process of its own."""

    def __init__(self, network: str, mode: str, edition: str) -> None:
        self.network, self.mode, self.edition = network, mode, edition

    def tune(self) -> None:
        """Tune the allocator: resident memory follows the memory in use."""
        ProcessMeter.tune()

    def figures(self) -> dict[str, int]:
        """Return the bytes above the base by three meters, and the prediction's difference from the tensor meter."""
        readings: dict[str, int] = {}
        torch.manual_seed(0)
        sizes = SIZES[self.network]
        model, batch = NETWORKS[self.network](self.mode, **sizes)
        edition = basic_editions(sizes["samples"])[self.edition]
        for name, make in OPTIMIZERS.items():
            step = TrainingStep(model.trunk, model.tasks, batch, make(model.parameters()), edition)
            step()
            step()
            with step.tensor_meter() as meter:
                step()
            measured = meter.result()
            predicted = predict(
                model.trunk, model.tasks, batch, optimizer=step.optimizer, edition=edition, device="cpu"
            )
            readings[f"prediction off, {name}"] = known(predicted.peak_bytes) - known(measured.peak_bytes)
            if predicted.categories != measured.categories:
                readings[f"categories off, {name}"] = 1
        readings["peak"] = known(measured.peak_bytes)
        readings["tensors"] = readings["peak"] - known(measured.base_bytes)
        with ProcessMeter() as process:
            step()
        result = process.result()
        readings["process"] = known(result.peak_bytes) - known(result.base_bytes)
        readings["profiler"] = profiler_peak(step)
        return readings


class Large:
    """Prediction of a transformer with 300 million parameters: batch 64 x 1024, bf16 autocast, AdamW."""

    def predict(self) -> list[tuple[str, str, float, int, int]]:
        """Predict by edition and device; return seconds, predicted peak and the rise of resident memory."""
        model, batch = transformer("autocast", width=1024, depth=20, length=1024, samples=64, classes=1000)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        optimizer = torch.optim.AdamW(model.parameters())
        rows = []
        for name, edition in basic_editions(64).items():
            for device in ("cuda", "cpu"):
                with ProcessMeter() as meter:
                    start = time.perf_counter()
                    predicted = predict(
                        model.trunk, model.tasks, batch, optimizer=optimizer, edition=edition, device=device
                    )
                    seconds = time.perf_counter() - start
                result = meter.result()
                resident = known(result.peak_bytes) - known(result.base_bytes)
                rows.append((name, device, seconds, known(predicted.peak_bytes), resident))
        return rows

    def count(self) -> int:
        """Return the number of parameters."""
        return self.parameters


def meter_cost() -> tuple[float, float, int]:
    """Return the microseconds per operator without and with the meter on tiny tensors, and the number of operators."""
    torch.set_num_threads(1)
    network = nn.Sequential(*(layer for _ in range(50) for layer in (nn.Linear(4, 4), nn.Tanh())))
    optimizer = torch.optim.AdamW(network.parameters(), foreach=False)
    x = torch.randn(2, 4)

    def step() -> None:
        network(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    bare, metered, operators = [], [], 0
    step()
    for _ in range(30):
        start = time.perf_counter()
        step()
        bare.append(time.perf_counter() - start)
        meter = TensorMeter(torch.device("cpu"), parameters=list(network.parameters()), optimizer=optimizer, inputs=x)
        start = time.perf_counter()
        with meter:
            step()
        metered.append(time.perf_counter() - start)
        operators = meter.operators
    return median(bare) / operators * 1e6, median(metered) / operators * 1e6, operators


def cells() -> Iterator[tuple[list[str], dict[str, int]]]:
    """Yield a row of the table per network, mode and edition with its figures; no figures where it failed."""
    for network in NETWORKS:
        for mode in MODES:
            for edition in basic_editions(8):
                with FreshProcess(Subject(network, mode, edition)) as process:
                    try:
                        process.call("tune")
                        readings = process.call("figures")
                    except MeasurementError as error:
                        yield [network, mode, edition, str(error), *["–"] * 5], {}
                        continue
                tensors = readings["tensors"]
                off = [size for key, size in readings.items() if "off" in key]
                ways = [f"{(readings[way] / tensors - 1) * 100:+.2f} %" for way in ("process", "profiler")]
                apart = readings["process"] - readings["profiler"]
                row = [f"{readings['peak'] / MIB:.1f}", f"{tensors / MIB:.1f}", *ways, f"{apart / MIB:+.2f}"]
                yield [network, mode, edition, *row, str(max(off, key=abs))], readings


def differences(rows: list[list[str]], readings: list[dict[str, int]]) -> list[list[str]]:
    """Return the memory by network and mode that the profiler sees beyond the meter, and the process beyond both."""
    table = [["network", "mode", "kernels: profiler − meter", "heap: process − profiler", "within 1 %"]]
    for network in NETWORKS:
        for mode in MODES:
            group = [
                figures for row, figures in zip(rows, readings, strict=True) if row[:2] == [network, mode] and figures
            ]
            kernels = [figures["profiler"] - figures["tensors"] for figures in group]
            heap = [figures["process"] - figures["profiler"] for figures in group]
            close = sum(abs(f[way] / f["tensors"] - 1) <= CLOSE for f in group for way in ("process", "profiler"))
            spans = [f"{min(sizes) / MIB:+.2f} to {max(sizes) / MIB:+.2f} MiB" for sizes in (kernels, heap) if sizes]
            table.append([network, mode, *spans, f"{close} of {2 * len(group)}"])
    return table


def main() -> None:
    """Run every measurement and write the report."""
    rows, readings = [], []
    for row, figures in cells():
        print(*row, flush=True)
        rows.append(row)
        readings.append(figures)
    exact = [bool(figures) and not any(size for key, size in figures.items() if "off" in key) for figures in readings]
    with FreshProcess(Large()) as process:
        large, parameters = process.call("predict"), process.call("count")
    bare, metered, operators = meter_cost()
    heading = ["network", "mode", "edition", "peak, MiB", "rise, MiB", "process", "profiler", "process − profiler, MiB"]
    heading.append("prediction − meter, bytes")
    shown = [
        [name, device, f"{peak / 2**30:.2f} GiB", f"{seconds:.1f} s", f"{resident / MIB:.0f} MiB"]
        for name, device, seconds, peak, resident in large
    ]
    page = TEXT.format(
        version=torch.__version__,
        exact=sum(exact),
        rows=len(exact),
        cells=2 * len(exact),
        differences="\n".join(markdown_table(differences(rows, readings))),
        table="\n".join(markdown_table([heading, *rows])),
        parameters=parameters / 1e6,
        large="\n".join(markdown_table([["edition", "for", "predicted peak", "took", "resident memory"], *shown])),
        bare=bare,
        metered=metered,
        cost=metered - bare,
        operators=operators,
    )
    (Path(__file__).parent / "README.md").write_text(page, encoding="utf-8")


TEXT = (Path(__file__).parent / "text.md").read_text(encoding="utf-8")

if __name__ == "__main__":
    main()
