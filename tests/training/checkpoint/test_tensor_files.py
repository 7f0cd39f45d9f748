"""A save of several processes is read by any number of processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mtl_accum.training.checkpoint._tensor_files import _file_of, read_tensors, table_of, write_tensors

WHOLE = {
    "rows": torch.arange(28.0).reshape(7, 4),
    "columns": torch.arange(10.0).reshape(2, 5),
    "everywhere": torch.ones(3),
    "step": torch.tensor(4.0),
}


def _in_processes(world: int, folder: Path, work: Callable[..., Any]) -> None:
    """Run work(rank) in that many processes of a group."""
    context = get_context("fork")

    def rank_of(rank: Any) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world)
        work(rank)
        dist.destroy_process_group()

    processes = [context.Process(target=rank_of, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="forks, which is safe on Linux only; found another")
def test_three_processes_write_and_one_or_two_read(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    folder = tmp_path / "tensors"
    folder.mkdir()
    table = table_of(WHOLE)

    def write(_: Any) -> None:
        mesh = init_device_mesh("cpu", (3,))
        parts = {
            "rows": distribute_tensor(WHOLE["rows"], mesh, [Shard(0)]),
            "columns": distribute_tensor(WHOLE["columns"], mesh, [Shard(1)]),
        }
        assert table_of({**WHOLE, **parts}) == table
        write_tensors(folder, {**WHOLE, **parts})

    def read(_: int) -> None:
        tensors = read_tensors(folder, table)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in WHOLE.items())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked processes have no pool of threads
    try:
        _in_processes(3, tmp_path, write)
        assert len(list(folder.iterdir())) == 3
        read(0)
        _in_processes(2, tmp_path, read)
    finally:
        torch.set_num_threads(threads)


def test_files_have_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_accum.training.checkpoint._tensor_files._FILE_BYTES", 100)
    tensors = {
        name: torch.full((size,), size, dtype=torch.float32)
        for name, size in zip("abcde", (10, 10, 50, 0, 1), strict=True)
    }
    assert _file_of(tensors) == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 3}
    write_tensors(tmp_path, tensors)
    assert len(list(tmp_path.iterdir())) == 3
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(tmp_path, table_of(tensors)).items())
