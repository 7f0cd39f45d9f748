"""Comparison with peers: the same network, weights, data and optimizer through this project and other libraries.

python -m pip install -c constraints.txt -e . -r experiments/peers/requirements-peers.txt    # in a venv of its own
python -m pip install --no-deps LibMTL==1.1.5          # alone: it would bring a torchvision that does not fit
python -m experiments.peers.run                        # from the repository's root; a library that is missing is a row
python -m experiments.peers.run --device cuda          # 64 times the batch
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from experiments.peers.bench import Bench
from experiments.peers.networks import SITUATIONS
from experiments.peers.outcome import Outcome
from experiments.peers.page import ROUNDS, write
from experiments.peers.rows import ROWS, Row
from experiments.study import parser
from mtl_accum.measure import FreshProcess, MeasurementError

__all__ = ["main", "measure"]


def measure(rows: Iterable[Row], device: str, scale: float, rounds: int) -> list[Outcome]:
    """Measure the rows of one situation: timed in turns on the CPU, one after the other on a GPU; then weighed."""
    outcomes = [Outcome(row, failure=row.missing(device)) for row in rows]
    present = [item for item in outcomes if item.failure is None]
    groups = [present] * bool(present) if device == "cpu" else [[item] for item in present]
    for group in groups:
        with ExitStack() as stack:
            benches = {
                item.row.name: stack.enter_context(FreshProcess(Bench(item.row.name, scale, device))) for item in group
            }
            for method in ("tune_for_timing", "prepare", *["timed_step"] * rounds):
                for item in group:
                    seconds = _call(benches[item.row.name], method, item)
                    if seconds is not None:
                        item.seconds.append(seconds)
                print(f"{group[0].row.situation}: {method}, {len(group)} row(s)", flush=True)
    with ThreadPoolExecutor(2 if device == "cpu" else 1) as pool:  # memory does not mind a neighbour on the CPU
        list(pool.map(lambda item: _weigh(item, scale, device), present))
    return outcomes


def _weigh(item: Outcome, scale: float, device: str) -> None:
    if item.failure is None:
        with FreshProcess(Bench(item.row.name, scale, device)) as process:
            for method in ("tune_for_memory", "prepare"):
                _call(process, method, item)
            item.memory = {record.source: record for record in _call(process, "memory", item) or ()}
            item.differences = _call(process, "differences", item)
        print(json.dumps(item.as_json()), flush=True)


def _call(process: FreshProcess, method: str, item: Outcome) -> Any:
    """Call a method in a row's process; return None from the row's first failure on."""
    if item.failure is None:
        try:
            return process.call(method)
        except MeasurementError as error:
            item.failure = " ".join(str(error).split())[:200]
    return None


def _all(arguments: argparse.Namespace) -> Iterator[Outcome]:
    for situation in arguments.situations:
        rows = [row for row in ROWS if row.situation == situation]
        yield from measure(rows, arguments.device, arguments.scale, arguments.rounds)


def main() -> None:
    """Run every row and write the report."""
    options = parser(__doc__, Path(__file__).parent, "of the batch; 1 on a CPU, 64 on a GPU")
    options.add_argument("--rounds", type=int, default=ROUNDS, help="timed steps of every row")
    options.add_argument("--threads", type=int, default=1, help="of the CPU, in every process")
    options.add_argument("--situations", nargs="+", choices=list(SITUATIONS), default=list(SITUATIONS))
    arguments = options.parse_args()
    if arguments.device != "cpu" and not torch.cuda.is_available():
        options.error(f"--device {arguments.device}: there is no CUDA device here")
    arguments.scale = arguments.scale or (1.0 if arguments.device == "cpu" else 64.0)
    torch.set_num_threads(arguments.threads)  # fresh processes take it over
    write(list(_all(arguments)), arguments)


if __name__ == "__main__":
    main()
