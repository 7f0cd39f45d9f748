"""Every edition in every situation of the tests, as a table.

python -m experiments.exactness.run        # from the repository's root; writes experiments/exactness/README.md
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch

from mtl_accum import SummedLoss
from mtl_accum._difference import gradient_difference
from mtl_accum._oracle import oracle
from tests.asserts import run
from tests.editions.test_matrix import EDITIONS, refusal
from tests.situations import SITUATIONS, Situation

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5}


def cell(edition: object, situation: Situation, dtype: torch.dtype) -> str:
    """The largest difference of gradients, losses and buffers, or "refused"."""
    load = situation.make(dtype)
    reference = oracle(edition) if situation.random else SummedLoss()
    try:
        found = run(edition, load)
    except ValueError:
        return "refused" if refusal(edition, situation) else "REFUSED WRONGLY"
    expected = run(reference, load)
    worst = max(gradient_difference(found[key], expected[key]) for key in ("gradients", "losses", "buffers"))
    if not torch.equal(found["random"], expected["random"]):
        worst = math.inf
    return f"{worst:.0e}" if worst <= DTYPES[dtype] else f"**{worst:.0e}**"


def name_of(edition: object) -> str:
    """The edition without its defaults."""
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
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    groups = dict.fromkeys(situation.group for situation in SITUATIONS.values())
    lines = []
    for dtype, bound in DTYPES.items():
        lines += [f"## {str(dtype).removeprefix('torch.')}: at most {bound:.0e}", ""]
        for group in groups:
            names = [name for name, situation in SITUATIONS.items() if situation.group == group]
            lines += [f"| {group} | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
            for edition in EDITIONS:
                cells = [cell(edition, SITUATIONS[name], dtype) for name in names]
                lines.append(f"| `{name_of(edition)}` | {' | '.join(cells)} |")
            lines.append("")
    (Path(__file__).parent / "README.md").write_text(
        f"""# Does every edition give the summed loss's gradient?

    python -m experiments.exactness.run

Each cell is the largest relative difference of gradients, losses and buffers from `SummedLoss` on a small network with
7 samples (so that no chunk divides the batch), torch {torch.__version__} on the CPU. A figure in bold would be above
the bound; it is infinite where the random stream ends elsewhere. "refused" is a ValueError that names the module or the
task: batch statistics in pieces, or a task that declares `couples_samples=True`. Where a network draws random numbers
or keeps running state, editions in pieces are held against the summed loss over the same pieces; everywhere else
against the whole batch. The same cells run in the tests (`pytest tests/editions/test_matrix.py`), with mutations of the
code that must turn some of them red. Not here: CUDA, for want of a device.

"""
        + "\n".join(lines)
    )


if __name__ == "__main__":
    main()
