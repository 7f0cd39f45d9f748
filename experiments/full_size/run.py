"""Predicted GPU memory of the literature's shapes at full size.

python -m experiments.full_size.run     # from the repository's root; writes beside this
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from experiments.study import Report
from mtl_accum import predict
from mtl_accum.testing import SHAPES, basic_editions

HERE = Path(__file__).parent
GIB = 2**30
# Configuration beside the default one: what an edition needs that the default does not give.
CASES = {
    "dense3": ("dense3", ()),
    "dense3, GroupNorm": ("dense3", ("model.norm=group",)),
    "text8": ("text8", ()),
    "lm_heads": ("lm_heads", ()),
    "lm_heads, 8 chunks": ("lm_heads", ("model.chunks=8",)),
}


def predicted(experiment: str, overrides: tuple[str, ...], scale: float = 1.0) -> dict[str, Any]:
    """Return the peaks in bytes by edition, or the reason for a missing one."""
    with torch.device("meta"):
        model, batch = SHAPES[experiment](scale, None, *overrides)
    optimizer = torch.optim.AdamW(model.parameters())
    samples = next(iter(batch.values())).shape[0]
    result: dict[str, Any] = {"samples": samples, "parameters": sum(p.numel() for p in model.parameters()), "peak": {}}
    for name, edition in basic_editions(samples).items():
        try:
            peak = predict(model.trunk, model.tasks, batch, optimizer=optimizer, edition=edition, device="cuda")
        except ValueError as error:
            result["peak"][name] = str(error)
        else:
            result["peak"][name] = peak.peak_bytes
    return result


def table(results: dict[str, Any]) -> list[list[str]]:
    """Return the table, a row per case."""
    names = list(basic_editions(4))
    rows = [["network", "batch", "parameters", *names, "split / summed"]]
    for case, result in results.items():
        peaks = result["peak"]
        cells = [f"{peaks[n] / GIB:.1f} GiB" if isinstance(peaks[n], int) else "refused" for n in names]
        share = peaks["split"] / peaks["summed"]
        rows.append([case, str(result["samples"]), f"{result['parameters'] / 1e6:.0f} million", *cells, f"{share:.2f}"])
    return rows


def main() -> None:
    """Predict and write."""
    results = {}
    for case, (experiment, overrides) in CASES.items():
        start = time.perf_counter()
        results[case] = predicted(experiment, overrides)
        print(case, results[case], f"{time.perf_counter() - start:.0f} s", flush=True)
    report = Report(
        HERE,
        "The real shapes at full size",
        "What would `dense3`, `text8` and `lm_heads` need on a GPU at `scale=1`, in float32 with AdamW?",
        "python -m experiments.full_size.run",
    )
    report.text(
        '**Predicted, not measured**: `mtl_accum.predict(device="cuda")` runs the step on tensors without data, with '
        "the operators and the caching allocator's rounding of CUDA; no GPU was at hand. On the CPU the same "
        "prediction equals the measurement to the byte (`experiments/memory`)."
    )
    report.table(table(results), "peaks")
    refused = [
        f"{case}, {name}: {peak}"
        for case, result in results.items()
        for name, peak in result["peak"].items()
        if isinstance(peak, str)
    ]
    report.items(*refused)
    report.write({"results": results}, torch.device("cpu"))


if __name__ == "__main__":
    main()
