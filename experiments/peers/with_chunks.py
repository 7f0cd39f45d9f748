"""Training loops with libraries that cut the batch of a loss: GradCache, sentence-transformers, torch, Liger."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.peers.networks import LR, Batch, Contrastive, Vocabulary

__all__ = ["gradcache_class", "liger", "sentence_transformers", "torch_automatic", "torch_chunked"]


def gradcache_class(network: Contrastive, batches: Iterable[Batch]) -> None:
    """Train with GradCache's class; it imports itself by a name that the package on PyPI lacks, which two lines add."""
    import sys

    import gradcache.context_managers

    sys.modules.setdefault("grad_cache", gradcache)
    sys.modules.setdefault("grad_cache.context_managers", gradcache.context_managers)
    from gradcache.grad_cache import GradCache

    cache = GradCache([network.encoder, network.encoder], chunk_sizes=network.rows, loss_fn=network.loss)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        cache(batch["queries"], batch["documents"])
        optimizer.step()


def sentence_transformers(network: Contrastive, batches: Iterable[Batch]) -> None:
    """Train with the cached loss of sentence-transformers; the encoder is a module from a dict to a dict."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = network.encoder

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return {**features, "sentence_embedding": self.encoder(features["x"])}

    model = SentenceTransformer(modules=[Encoder()], device=str(next(network.parameters()).device))
    criterion = losses.CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=network.rows)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        criterion([{"x": batch["queries"]}, {"x": batch["documents"]}], None).backward()
        optimizer.step()


def torch_chunked(network: Vocabulary, batches: Iterable[Batch]) -> None:
    """Train with torch's own chunked loss; without options it is the path in one piece."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    head = network.head
    for batch in batches:
        optimizer.zero_grad()
        rows = -(-len(batch["x"]) // network.chunks)
        options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=rows)
        z = network.trunk(batch["x"])
        F.linear_cross_entropy(z, head.weight, batch["word"], linear_bias=head.bias, options=options).backward()
        optimizer.step()


def torch_automatic(network: Vocabulary, batches: Iterable[Batch]) -> None:
    """Train with torch's own chunked loss, which chooses the chunks itself."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    head, options = network.head, nn.LinearCrossEntropyOptions()
    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        F.linear_cross_entropy(z, head.weight, batch["word"], linear_bias=head.bias, options=options).backward()
        optimizer.step()


def liger(network: Vocabulary, batches: Iterable[Batch]) -> None:
    """Train with Liger's Triton kernels, on a GPU only."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    head = network.head
    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        liger_fused_linear_cross_entropy(z, head.weight, batch["word"], bias=head.bias).backward()
        optimizer.step()
