"""Limits of a network in a budget: the largest batch, the memory that no schedule saves, and advice where none fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mtl_accum.editions import Edition
from mtl_accum.memory import Breakdown
from mtl_accum.planning._form import without_form
from mtl_accum.planning._formula import Tables, estimate
from mtl_accum.planning._ranking import Candidate
from mtl_accum.planning._result import LargestBatch

__all__ = ["advice", "fixed_memory", "largest_batches"]

_NO_LIMIT = 2**40  # samples


def largest_batches(candidates: Iterable[Candidate], tables: Tables, budget: int) -> tuple[LargestBatch, ...]:
    """Return the largest batch for each kind of schedule, by the one of that kind that needs the least memory.

    Args:
        candidates: Candidates.
        tables: Costs of the network.
        budget: Budget in bytes.
    """
    smallest: dict[str, Candidate] = {}
    for candidate in candidates:
        kind = type(without_form(candidate.edition)).__name__
        if kind not in smallest or candidate.estimate.peak_bytes < smallest[kind].estimate.peak_bytes:
            smallest[kind] = candidate

    def fits(edition: Edition) -> Callable[[int], bool]:
        return lambda samples: estimate(edition, tables, samples).peak_bytes <= budget

    return tuple(LargestBatch(candidate.edition, _largest(fits(candidate.edition))) for candidate in smallest.values())


def fixed_memory(resident: Breakdown, tables: Tables) -> dict[str, int]:
    """Return the memory that every schedule needs, in bytes by name.

    These are the bytes that are live at all times, the gradients, and the costs of a single sample.

    Args:
        resident: Bytes that are live before a step.
        tables: Costs of the network.
    """
    sample = tables.at(1)
    largest = max(sample.heads, key=lambda name: sample.heads[name].kept + sample.heads[name].forward_rise)
    sizes = {
        "parameters and buffers": resident.parameters + resident.buffers,
        "optimizer state": resident.optimizer_state,
        "gradients": round(sample.trunk.gradients + sum(head.gradients for head in sample.heads.values())),
        "the batch": resident.inputs,
        "cuBLAS workspaces": resident.workspaces,
    }
    sizes = {name: size for name, size in sizes.items() if size}
    sizes["one sample's trunk"] = round(max(sample.trunk.kept, sample.trunk.forward_rise))
    sizes[f"one sample's largest head ({largest})"] = round(
        max(sample.heads[largest].kept, sample.heads[largest].forward_rise)
    )
    return sizes


def advice(
    fixed: dict[str, int], budget: int, left_out: dict[str, str], largest: Iterable[LargestBatch]
) -> Iterator[str]:
    """Return changes to the network, the optimizer or the batch that would help, the most effective first.

    Args:
        fixed: Memory that every schedule needs, as `fixed_memory` returns it.
        budget: Budget in bytes.
        left_out: Reasons by kind of schedule that is no candidate.
        largest: Largest batches, as `largest_batches` returns them.
    """
    without_batch = sum(fixed.get(name, 0) for name in ("parameters and buffers", "optimizer state", "gradients"))
    if without_batch > budget:
        yield (
            "no batch is small enough: parameters, gradients and optimizer state alone are more; fewer or 16-bit "
            "parameters, fewer of them trainable, or sharding them over devices"
        )
    if fixed.get("optimizer state", 0) > 0:
        yield "an optimizer with less state (SGD has none without momentum)"
    if any("batch statistics" in reason for reason in left_out.values()):
        yield "to_group_norm(model): without batch statistics the batch can be cut"
    possible = [row for row in largest if row.samples]
    if without_batch <= budget and possible:
        best = max(possible, key=lambda row: row.samples or 0)
        yield f"a batch of {best.samples} samples"
    yield "smaller samples (image size, sequence length)"


def _largest(fits: Callable[[int], bool]) -> int | None:
    """Return the largest number of samples that fits, by bisection; None beyond any batch size.

    Args:
        fits: Whether a number of samples fits; if it does, all smaller ones do.
    """
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
        if high > _NO_LIMIT:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
