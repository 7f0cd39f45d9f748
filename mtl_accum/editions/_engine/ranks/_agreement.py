"""Shares of a loss on several ranks: each rank's batch is a piece of the batch of all of them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, final

import torch
import torch.distributed as dist

__all__ = ["Ranks", "checksum", "count_ranks", "gather_row", "is_distributed"]

_BLOCK = 256  # numbers; rows are padded to a multiple of it, so ranks with other tasks still have rows to compare


@final
class Ranks:
    """The ranks of a process group, whose engine (DDP, FSDP2) averages gradients over them.

    Attributes:
        partly: Names of the tasks that are present on some ranks and absent on others; known after `shares`.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self.partly: frozenset[str] = frozenset()

    @classmethod
    def of(cls, group: Any = None) -> Ranks | None:
        """Return the ranks of a group, the default group for None.

        Returns:
            None where a loss is this process's alone: there is no process group, the group has one rank, or
            gradients are disabled. No collective runs then.

        Raises:
            TypeError: group is not a process group.
            ValueError: This process is not a member of the group.
            RuntimeError: There is a group, but `torch.distributed` is not initialized.
        """
        return cls(group) if count_ranks(group) > 1 and torch.is_grad_enabled() else None

    def shares(
        self, counts: Mapping[str, float], schedule: str, *, sums: Collection[str] = (), passes: str = ""
    ) -> dict[str, float | None]:
        """Return the factor of each task's loss on this rank, in one collective over the group.

        The mean over the ranks of `share * loss` is the loss of the batch of all ranks: an engine that averages
        gradients makes that batch's gradient of it.

        Args:
            counts: Denominator of each task's mean on this rank's batch, by name; 0 where the task is absent.
            schedule: Text that must be equal on all ranks: the edition.
            sums: Names of the tasks whose loss is a sum over the samples.
            passes: Text that must be equal on all ranks too: the numbers of passes through trunk and heads, where
                they are collective; see `is_sharded`.

        Returns:
            By task `ranks * count here / count of all ranks` (for a sum the number of ranks); 0.0 where it is absent
            here and present elsewhere; None where it is absent on all ranks.

        Raises:
            ValueError: On every rank together: ranks have other tasks, another order of them, another schedule, or
                another number of passes.
        """
        names = list(counts)
        header = [len(names), checksum(names), checksum([schedule]), checksum([passes])]
        table = gather_row([*header, *counts.values()], self._group)
        _require_alike([row[:2] for row in table], "other tasks, or another order of them,", f"{names}", _SAME)
        _require_alike([row[2] for row in table], "another schedule", schedule, _SAME)
        _require_alike([row[3] for row in table], "another number of passes", passes, _TOGETHER)
        columns = dict(zip(names, zip(*(row[4 : 4 + len(names)] for row in table), strict=True), strict=True))
        self.partly = frozenset(name for name, column in columns.items() if any(column) and not all(column))
        ranks = len(table)
        shares: dict[str, float | None] = {}
        for name, column in columns.items():
            if not any(column):
                shares[name] = None
            elif name in sums:
                shares[name] = float(ranks * bool(counts[name]))
            else:
                shares[name] = ranks * counts[name] / sum(column)
        return shares


def is_distributed() -> bool:
    """Return whether this process has a process group."""
    return dist.is_available() and dist.is_initialized()


def count_ranks(group: Any = None) -> int:
    """Return the number of ranks in a group, 1 without a process group.

    Raises:
        TypeError: group is not a process group.
        ValueError: This process is not a member of the group.
        RuntimeError: There is a group, but `torch.distributed` is not initialized.
    """
    initialized = is_distributed()
    if group is not None:
        _require_group(group, initialized)
    return dist.get_world_size(group) if initialized else 1


def gather_row(row: Sequence[float], group: Any = None) -> list[list[float]]:
    """Gather a row of numbers from every rank, in one collective and one transfer to the host.

    Rows are padded to a multiple of 256 numbers. Their first entry should be their length, to be compared.
    """
    padded = [*row, *[0.0] * (-len(row) % _BLOCK)]
    mine = torch.tensor(padded, dtype=torch.float64, device=_device(group))
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, mine, group=group)
    return torch.stack(rows).tolist()


def _device(group: Any) -> torch.device:
    """Return the device of a collective's tensors: the CPU if the group has a backend for it."""
    kinds = [pair.partition(":")[0] for pair in dist.get_backend_config(group).split(",")]
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


_SAME = (
    "Call loss on every rank with the same edition and the same tasks in the same order; a task whose target is not in "
    "a rank's batch stays among the tasks, and takes part with zeros"
)
_TOGETHER = (
    "Modules of fully_shard run on all ranks together, and batches of other sizes are cut into other numbers of "
    "pieces; give every rank as many samples (drop or pad the last batch), or use Accumulated, which cuts by number"
)


def _require_alike(rows: Sequence[Any], what: str, mine: str, fix: str) -> None:
    others = [rank for rank, row in enumerate(rows) if row != rows[0]]
    if others:
        raise ValueError(
            f"loss: ranks {others} of the group have {what} than its rank 0; found {mine} on this rank. {fix}"
        )


def checksum(texts: Iterable[str]) -> float:
    """Return a checksum of a list of texts."""
    return float(zlib.crc32("\0".join(texts).encode()))


def _require_group(group: Any, initialized: bool) -> None:
    if not initialized:
        raise RuntimeError(
            "group: expected torch.distributed to be initialized, found no process group; call "
            "torch.distributed.init_process_group first, or leave group out"
        )
    if group == dist.GroupMember.NON_GROUP_MEMBER or (
        isinstance(group, dist.ProcessGroup) and dist.get_rank(group) < 0
    ):
        raise ValueError(
            f"group: expected a process group with this process (rank {dist.get_rank()}) in it, found NON_GROUP_MEMBER "
            "(new_group returns it outside of its ranks); call loss on the group's ranks alone, or pass the group "
            "that this rank is in"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a torch.distributed.ProcessGroup, found {type(group).__name__}; of a DeviceMesh pass "
            "mesh.get_group(), with the name of its data-parallel dimension if it has several"
        )
