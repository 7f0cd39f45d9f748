"""The pages of several processes, each with the page's loss and with the plain one, on two processes of this machine.

The processes are started once for torch's own pages, and once for the frameworks', whose imports take seconds.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.processes import Forked
from tests.trainers.rank import cases, main

RANKS = 2


def train(pages: list[str], folder: Path) -> list[dict]:
    """Run pages on two processes and return each rank's final weights by (page, network, loop) and name."""
    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in cases(pages)]
    ports = [str(store.port) for store in stores]
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the stores above: no port to be raced for
        "TORCHELASTIC_RUN_ID": "tests",
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": next(name for _, name in socket.if_nameindex() if name.startswith("lo")),
    }
    with ExitStack() as stack:
        processes = []
        for rank in range(RANKS):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = Forked(main, pages, ports, cwd=folder, environment={**environment, **place})
            processes.append(stack.enter_context(process))
        wait(processes)
        output = [process.communicate(1) for process in processes]
        assert not any(process.returncode for process in processes), output
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


def wait(processes: list[Forked]) -> None:
    """Wait until all have ended, or one has failed, whose peers would wait for it for ever."""
    end = time.monotonic() + 200
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or time.monotonic() > end:
            for process in processes:
                process.kill()
        time.sleep(0.05)


def assert_equal_to_the_last_bit(ranks: list[dict], pages: list[str]) -> None:
    """Hold every rank's weights after the page's code against rank 0's after the plain loop."""
    for (page, network, loop), trained in ranks[0].items():
        if loop == "plain" and page in pages:
            for rank, name in product(range(RANKS), trained):
                where = f"{page}, {network}, rank {rank}, {name}"
                assert torch.equal(ranks[rank][page, network, "ours"][name], trained[name]), where


def test_ddp_and_fsdp2() -> None:
    pages = ["ddp", "fsdp2"]
    ranks = train(pages, Path.cwd())
    assert_equal_to_the_last_bit(ranks, pages)
    for name, value in ranks[0]["ddp", "page", "ours"].items():
        torch.testing.assert_close(ranks[0]["fsdp2", "page", "ours"][name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_frameworks() -> None:
    pages = ["accelerate", "hf_trainer", "lightning"]
    for name in ("accelerate", "transformers", "lightning"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install mtl-accum[trainers]")
    ranks = train(pages, Path.cwd())
    assert_equal_to_the_last_bit(ranks, pages)
    first, second = (trained["lightning", "page", "by hand"] for trained in ranks)
    apart = max((first[name] - second[name]).abs().max() for name in first)
    assert apart > 0.01, "forward_backward under manual optimisation reduces nothing, as the page says"
