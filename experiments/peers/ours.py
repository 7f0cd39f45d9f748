"""Training loops with this project."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from experiments.peers.networks import LR, Batch, Contrastive, MultiTask, Vocabulary
from mtl_accum import Edition

__all__ = ["contrastive", "cut_in_a_loop", "multi_task", "split_loss", "vocabulary", "vocabulary_in_chunks"]


def cut_in_a_loop(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with `cut` in an existing loop."""
    from mtl_accum import cut

    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        with cut(network.trunk(batch["x"])) as z:
            for name, head in network.heads.items():
                network.losses[name](head(z), batch[name]).backward()
        optimizer.step()


def multi_task(network: MultiTask, batches: Iterable[Batch], edition: Edition) -> None:
    """Train with an edition."""
    from mtl_accum import MultiTaskModel, Task

    tasks = {name: Task(head, network.losses[name], target=name) for name, head in network.heads.items()}
    model = MultiTaskModel(network.trunk, tasks, inputs="x")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        edition.forward_backward(model.trunk, model.tasks, batch)
        optimizer.step()


def split_loss(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with `Split().loss`, for a loop that runs the backward itself."""
    from mtl_accum import MultiTaskModel, Split, Task

    tasks = {name: Task(head, network.losses[name], target=name) for name, head in network.heads.items()}
    model = MultiTaskModel(network.trunk, tasks, inputs="x")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        total, _ = Split().loss(model.trunk, model.tasks, batch)
        total.backward()
        optimizer.step()


def contrastive(network: Contrastive, batches: Iterable[Batch]) -> None:
    """Train with `Cached`; a chunk holds queries and documents, so it has half of the rows of each."""
    from mtl_accum import Cached

    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    edition = Cached(chunk_size=network.rows // 2)
    for batch in batches:
        optimizer.zero_grad()
        edition.forward_backward(
            lambda batch: network.encoder(torch.cat([batch["queries"], batch["documents"]])).chunk(2),
            {"pairs": lambda z, batch: network.loss(*z)},
            batch,
        )
        optimizer.step()


def vocabulary(network: Vocabulary, batches: Iterable[Batch], edition: Edition) -> None:
    """Train with an edition that cuts the head."""
    from mtl_accum import MultiTaskModel, Task

    model = MultiTaskModel(network.trunk, {"word": Task(network.head, F.cross_entropy, "word")}, inputs="x")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        edition.forward_backward(model.trunk, model.tasks, batch)
        optimizer.step()


def vocabulary_in_chunks(network: Vocabulary, batches: Iterable[Batch]) -> None:
    """Train with `chunked` in an existing loop."""
    from mtl_accum.models import chunked

    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    summed = chunked(lambda z, y: F.cross_entropy(network.head(z), y, reduction="sum"), network.chunks)
    for batch in batches:
        optimizer.zero_grad()
        (summed(network.trunk(batch["x"]), batch["word"]) / len(batch["word"])).backward()
        optimizer.step()
