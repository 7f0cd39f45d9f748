"""The pages of several processes, each with the page's loss and with the plain one, on two processes of this machine.

The processes are started once for all quick pages, and once for the frameworks, whose imports take seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from tests.trainers.rank import cases

ROOT = Path(__file__).resolve().parent.parent.parent
RANKS = 2
FRAMEWORKS = ["accelerate", "hf_trainer", "lightning"]
networks = pytest.mark.parametrize("network", ["page", "convolutions"])


def train(pages: list[str], folder: Path) -> list[dict]:
    """Run pages on two processes and return each rank's final weights by (page, network, loop) and name."""
    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in cases(pages)]
    ports = ",".join(str(store.port) for store in stores)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the stores above: no port to be raced for
        "TORCHELASTIC_RUN_ID": "tests",
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-m", "tests.trainers.rank", ",".join(pages), ports]
    with (folder / "output.txt").open("w") as output:
        processes = [
            subprocess.Popen(
                command,
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank in range(RANKS)
        ]
        wait(processes)
    failed = any(process.returncode for process in processes)
    assert not failed, (folder / "output.txt").read_text()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


def wait(processes: list[subprocess.Popen]) -> None:
    """Wait until all have ended, or one has failed, whose peers would wait for it for ever."""
    end = time.monotonic() + 200
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or time.monotonic() > end:
            for process in processes:
                process.kill()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory) -> list[dict]:
    return train(["ddp", "fsdp2"], tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def frameworks(tmp_path_factory) -> list[dict]:
    for name in ("accelerate", "transformers", "lightning"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install mtl-accum[trainers]")
    return train(FRAMEWORKS, tmp_path_factory.mktemp("ranks"))


def pairs(ranks: list[dict], page: str, network: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each parameter as the plain loop left it on rank 0, and as the page's loss left it on every rank."""
    for trained in ranks:
        for name, value in ranks[0][page, network, "plain"].items():
            yield value, trained[page, network, "ours"][name]


@networks
@pytest.mark.parametrize("page", ["ddp", "fsdp2"])
def test_equal_to_the_last_bit(torch_alone, page, network):
    assert all(torch.equal(plain, ours) for plain, ours in pairs(torch_alone, page, network))


@networks
def test_ddp_and_fsdp2_train_the_same(torch_alone, network):
    for name, value in torch_alone[0]["ddp", network, "ours"].items():
        torch.testing.assert_close(torch_alone[0]["fsdp2", network, "ours"][name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@networks
@pytest.mark.parametrize("page", FRAMEWORKS)
def test_frameworks_equal_to_the_last_bit(frameworks, page, network):
    assert all(torch.equal(plain, ours) for plain, ours in pairs(frameworks, page, network))


@pytest.mark.slow
def test_forward_backward_under_manual_optimisation_leaves_ranks_apart(frameworks):
    first, second = (trained["lightning", "page", "by hand"] for trained in frameworks)
    assert max((first[name] - second[name]).abs().max() for name in first) > 0.01
