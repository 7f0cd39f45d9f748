"""Processes that stay, each a rank, for tests that would start Python and import torch again and again."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.processes import FORK_SERVER

_PATIENCE = 60  # seconds, on a busy machine


class Ranks:
    """Some processes; each call is a process group of its own, so that one that fails leaves nothing to the next.

    Args:
        number: of processes.
        folder: where they meet.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self._number, self._folder = number, folder
        self._calls = 0
        self._processes: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What a function returns on every rank, or the exception that it raises there.

        Args:
            function: of a module, so that the processes can import it.
            args: to be pickled.
        """
        if not self._processes:
            self._start()
        self._calls += 1
        for _, pipe in self._processes:
            pipe.send((f"{self._folder}/{self._calls}", function, args))
        results = [_answer(pipe) for _, pipe in self._processes]
        if None in results:
            self.stop()
            raise RuntimeError(f"{function.__name__}{args}: a process ended or took {_PATIENCE} s; results: {results}")
        return [value for (value,) in results]  # type: ignore[misc]

    def stop(self) -> None:
        """End the processes."""
        for process, pipe in self._processes:
            process.kill()
            process.join()
            pipe.close()
        self._processes = []

    def _start(self) -> None:
        context = FORK_SERVER
        for rank in range(self._number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self._number), daemon=True)
            process.start()
            theirs.close()
            self._processes.append((process, ours))


def _answer(pipe: Connection) -> tuple[Any] | None:
    try:
        return pipe.recv() if pipe.poll(_PATIENCE) else None
    except EOFError:
        return None


def _serve(pipe: Connection, rank: int, ranks: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", *loopback[:1])
    while True:
        try:
            store, function, args = pipe.recv()
        except EOFError:
            return
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=_PATIENCE / 2)
        )
        dist.barrier()  # a rank that has nothing to wait for would leave before the other one has come
        try:
            value = function(*args)
        except Exception as error:
            value = error
        pipe.send((value,))
        dist.destroy_process_group()
