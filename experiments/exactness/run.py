"""Every edition in every situation of the tests, as a table.

python -m experiments.exactness.run        # from the repository's root; writes experiments/exactness/README.md
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from statistics import mean

import torch

from experiments.exactness import field
from mtl_accum import SummedLoss
from mtl_accum.editions import Edition
from mtl_accum.testing import (
    BOUNDS,
    MATRIX,
    SITUATIONS,
    Situation,
    flat_gradient,
    float64_gradient,
    refusal,
    run_edition,
    under_autocast,
    wide_weights,
)
from mtl_accum.verify import gradient_difference, oracle


def cell(edition: Edition, situation: Situation, dtype: torch.dtype) -> str:
    """Return the largest difference of gradients, losses and buffers, or "refused"."""
    load = situation.make(dtype)
    reference = oracle(edition) if situation.random else SummedLoss()
    try:
        result = run_edition(edition, load)
    except ValueError:
        return "refused" if refusal(edition, situation) else "REFUSED WRONGLY"
    expected = run_edition(reference, load)
    worst = max(
        gradient_difference(result.gradients, expected.gradients),
        gradient_difference(result.losses, expected.losses),
        gradient_difference(result.buffers, expected.buffers),
    )
    if not torch.equal(result.random, expected.random):
        worst = math.inf
    return f"{worst:.0e}" if worst <= BOUNDS[dtype] else f"**{worst:.0e}**"


def error_ratio(edition: Edition, dtype: torch.dtype, *, parameters: bool) -> float:
    """Return the mean over 10 seeds of the edition's error against float64 over SummedLoss's error."""
    ratios = []
    for seed in range(10):
        load = wide_weights(seed)
        reference = float64_gradient(load)
        if parameters:
            load.modules.to(dtype)
            load.batch.update({name: tensor.to(dtype) for name, tensor in load.batch.items()})
        else:
            load = under_autocast(load, dtype)
        errors = [(flat_gradient(one, load) - reference).norm() for one in (edition, SummedLoss())]
        ratios.append(float(errors[0] / errors[1]))
    return mean(ratios)


def name_of(edition: Edition) -> str:
    """Return an edition's notation without its defaults."""
    text = repr(edition)
    for default in (
        "heads_per_graph=1",
        "head_chunks=1",
        "order='forward'",
        "allow_batch_statistics=False",
        "edition=",
    ):
        text = text.replace(f", {default}", "").replace(f"{default}, ", "").replace(default, "")
    return text.replace("()", "")


def main() -> None:
    """Compute every cell and write both pages."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    groups = dict.fromkeys(situation.group for situation in SITUATIONS.values())
    lines = []
    for dtype, bound in BOUNDS.items():
        lines += [f"## {str(dtype).removeprefix('torch.')}: at most {bound:.0e}", ""]
        for group in groups:
            names = [name for name, situation in SITUATIONS.items() if situation.group == group]
            lines += [f"| {group} | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
            for edition in MATRIX:
                cells = [cell(edition, SITUATIONS[name], dtype) for name in names]
                lines.append(f"| `{name_of(edition)}` | {' | '.join(cells)} |")
            lines.append("")
    lines += [
        "## Low precision: error against float64, as a multiple of SummedLoss's (mean of 10 seeds, 8 tasks)",
        "",
        "At most 1.05 is asked of every edition under autocast, and of `Split` in one piece with 16-bit parameters:",
        "elsewhere `.grad` itself, which is 16 bit then, adds up once a task or a piece.",
        "",
        "| edition | autocast, bfloat16 | autocast, float16 | bfloat16 parameters |",
        "| --- | ---: | ---: | ---: |",
    ]
    for edition in MATRIX:
        ratios = [
            error_ratio(edition, torch.bfloat16, parameters=False),
            error_ratio(edition, torch.float16, parameters=False),
            error_ratio(edition, torch.bfloat16, parameters=True),
        ]
        lines.append(f"| `{name_of(edition)}` | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |")
    lines.append("")
    (Path(__file__).parent / "README.md").write_text(
        f"""# Does every edition give the summed loss's gradient?

    python -m experiments.exactness.run

Each cell is the largest relative difference of gradients, losses and buffers from `SummedLoss` on a small network with
7 samples (so that no chunk divides the batch), torch {torch.__version__} on the CPU. A figure in bold would be above
the bound; it is infinite where the random stream ends elsewhere. "refused" is a ValueError that names the module or the
task: batch statistics or spectral normalisation in pieces, or a task that declares `couples_samples=True`. Where a
network draws random numbers or keeps running state, editions in pieces are held against the summed loss over the same
pieces; everywhere else against the whole batch. The same cells run in the tests
(`pytest tests/editions/test_matrix.py`), with mutations of the code that must turn some of them red. Not here: CUDA,
because there was no device.
[field.md](field.md), which the same command writes, has situations of real networks and batches.

"""
        + "\n".join(lines)
    )
    field.main()


if __name__ == "__main__":
    main()
