"""Every edition in situations of the field: right, refused in a sentence, or found by `check`; as a table.

python -m experiments.exactness.field        # from the repository's root; writes experiments/exactness/field.md
"""

from __future__ import annotations

import random
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.exactness.situations import EVERY, SAMPLES, SITUATIONS, Network, Situation
from mtl_accum import Accumulated, Cached, Checkpointed, PerTask, Split, SummedLoss
from mtl_accum.editions import Edition
from mtl_accum.verify import gradient_difference, in_pieces, oracle

EDITIONS: dict[str, Edition] = dict(
    zip(
        EVERY,
        (
            *(SummedLoss(), Split(), PerTask(), Checkpointed(Split()), Cached(chunk_size=100)),
            *(Cached(chunk_size=3), Split(head_chunks=2), Accumulated(Split(), micro_batches=2)),
        ),
        strict=True,
    )
)


def gradients(network: Network, edition: Edition | None) -> dict[str, Tensor | None]:
    """Return the gradients of one step, from the same random numbers: the user's plain loop without an edition."""
    leaves = dict(network.modules.named_parameters()) | dict(network.leaves)
    for leaf in leaves.values():
        leaf.grad = None
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    if edition is None:
        _plain(network)
    else:
        with torch.autocast("cpu", torch.bfloat16) if network.autocast else nullcontext():
            edition.forward_backward(network.trunk, network.tasks, network.batch)
    return {name: leaf.grad for name, leaf in leaves.items()}


def _plain(network: Network) -> None:
    if network.plain is not None:
        return network.plain()
    with torch.autocast("cpu", torch.bfloat16) if network.autocast else nullcontext():
        z = network.trunk(network.batch)
        total: Any = sum(task(z, network.batch) for task in network.tasks.values())
    total.backward()  # outside of the block, as torch's documentation has it
    return None


def outcome(situation: Situation, edition: Edition) -> float | Exception:
    """Return the gradient's difference from the plain loop's, or the exception that an edition raised."""
    expected = gradients(situation.make(), oracle(edition) if situation.by_pieces and in_pieces(edition) else None)
    try:
        return gradient_difference(gradients(situation.make(), edition), expected)
    except (RuntimeError, TypeError, ValueError) as error:
        return error


def bound(situation: Situation, edition: Edition) -> float:
    """Return the largest difference that rounding explains; under autocast each piece rounds to 16 bit on its own."""
    if not situation.make().autocast:
        return 1e-12
    return 1e-2 if in_pieces(edition) else 1e-5


def cell(situation: Situation, name: str) -> tuple[str, str]:
    """Return a cell of the table, and the reason of a refusal."""
    result = outcome(situation, EDITIONS[name])
    if isinstance(result, Exception):
        return "refused", f"{type(result).__name__}: {result}"
    if result <= bound(situation, EDITIONS[name]):
        return f"{result:.0e}", ""
    return ("`check`" if name in situation.blind else "**WRONG**"), ""


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    lines = [f"| situation | {' | '.join(EVERY)} | instead |", "| --- |" + " ---: |" * len(EVERY) + " --- |"]
    refusals = []
    for name, situation in SITUATIONS.items():
        cells = [cell(situation, edition) for edition in EVERY]
        lines.append(f"| {name} | {' | '.join(text for text, _ in cells)} | {situation.fix} |")
        reasons = list(dict.fromkeys(reason for _, reason in cells if reason))
        refusals += [f"- {name}", *(f"  - `{reason}`" for reason in reasons)] if reasons else []
    (Path(__file__).parent / "field.md").write_text(
        f"""# What happens in the field

    python -m experiments.exactness.field

Situations from public reports, each as small as it can be. The right value is the gradient of the user's plain loop,
from the same random numbers, in float64 with {SAMPLES} samples, so that no piece divides the batch (on the CPU, torch
{torch.__version__}). A figure is the largest relative difference from it. "refused" is an exception in one sentence,
listed below. "`check`" marks what no edition can see while it runs: the edition's gradient is another one, and
`mtl_accum.check` finds it by numbers (so `plan` does not choose it). Where a network draws random numbers, editions in
pieces are held against the summed loss over the same pieces; the last row runs under bfloat16 autocast, where every
piece rounds on its own. The tests hold every cell.

"""
        + "\n".join([*lines, "", "## The refusals", "", *refusals, ""])
    )


if __name__ == "__main__":
    main()
