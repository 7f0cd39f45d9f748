"""Multi-token prediction: a decoder whose head k predicts the token k steps ahead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum._validate import positive_int, small_int
from mtl_accum.editions import note_call
from mtl_accum.editions._engine import expected_scale
from mtl_accum.models._chunked import Chunked
from mtl_accum.models._count_functions import count_labels
from mtl_accum.models._masked import TokenCrossEntropy
from mtl_accum.models._multi_task import MultiTaskModel, Selector, Task
from mtl_accum.models._weight import Weight
from mtl_accum.models.zoo._transformer import TransformerBlock, scaled_trunk

__all__ = ["Ahead", "LanguageHead", "LanguageTask", "lm_heads"]


class Ahead:
    """Target: the tokens `steps` positions ahead, (N, L) -> (N, L), -100 after the end of the text.

    Args:
        key: Key of the tokens in the batch.
        steps: Number of positions to look ahead.

    Raises:
        ValueError: steps is less than 1.
    """

    def __init__(self, key: str, steps: int) -> None:
        positive_int("steps", steps)
        self._key, self._steps = key, steps

    def __call__(self, batch: Any) -> Tensor:
        """Return the target of a batch."""
        return F.pad(batch[self._key][:, self._steps :], (0, self._steps), value=-100)


class LanguageHead(nn.Module):
    """Block, normalisation and linear layer to the vocabulary: (N, L, width) -> (N, L, vocabulary).

    Args:
        block: Module from (N, L, width) to (N, L, width).
        width: Number of channels of the representation.
        words: Linear layer to the vocabulary; heads may share it.
    """

    def __init__(self, block: nn.Module, width: int, words: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.Sequential(block, nn.LayerNorm(width))
        self.words = words

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, L, width) to logits (N, L, vocabulary)."""
        logits: Tensor = self.words(self.hidden(tokens))
        return logits


class LanguageTask(Task):
    """Language-model task that computes its loss in chunks of the sequence, never holding the logits of all tokens.

    `weight * cross_entropy(head(representation), target)`, a mean over the labels that are not -100. The logits of
    a chunk and their gradient are computed together (see `chunked`): logits, log-softmax and gradient exist for
    1 / chunks of the tokens. The gradient of the last layer is held until the backward. Heads that share the layer hold
    one gradient each if their losses wait for one backward, as under `SummedLoss`.

    Args:
        head: Head whose `words` run chunk by chunk.
        target: Key of the batch, or callable of it, for labels (N, L), int64, -100 where there is none.
        weight: Weight of the loss, as for `Task`.
        chunks: Number of pieces of the sequence; 1 computes all logits at once, in autograd's own graph.

    Raises:
        ValueError: chunks is less than 1.
    """

    def __init__(self, head: LanguageHead, target: Selector, weight: Weight = 1.0, *, chunks: int = 1) -> None:
        positive_int("chunks", chunks)
        super().__init__(head, TokenCrossEntropy(), target, weight, count_labels(target))
        self._chunks = chunks

    def forward(self, representation: Any, batch: Any) -> Tensor:
        """Return the weighted loss, a 0-dim tensor."""
        if self._chunks == 1:
            return super().forward(representation, batch)
        if not torch.compiler.is_compiling():
            note_call(self)
        labels: Tensor = self.target(batch)
        hidden: Tensor = self.head.hidden(representation)  # type: ignore[attr-defined]
        count = (labels != -100).sum()
        summed = Chunked(self._sum, self._chunks, dim=1, scale=_scale(count), trusted=True)
        return self.weighted(summed(hidden, labels) / count)

    def _sum(self, features: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.head.words(features)  # type: ignore[attr-defined]
        for watch in self.watchers:
            watch(logits, labels)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def _scale(count: Tensor) -> float | Tensor:
    """Return the factor that a sum over `count` labels is multiplied by before its backward.

    The factor is 1 if no scale is expected: in fp16 the gradient of a sum needs none, unlike the gradient of a mean.
    """
    scale = expected_scale()
    return 1.0 if scale is None else scale / count.clamp(min=1)


def lm_heads(
    scale: float = 1.0,
    *,
    vocabulary: int = 32000,
    length: int = 2048,
    layers: int = 24,
    heads: int = 16,
    ahead: int = 4,
    chunks: int = 1,
    dropout: float = 0.1,
) -> MultiTaskModel:
    """Build a GPT-like decoder that predicts several tokens ahead; heads are blocks that share the last layer.

    The batch has `tokens` (N, L), int64. Task `ahead k` predicts the token k steps ahead. The paper runs the heads one
    after the other on the detached representation to save memory: that is `Split`.

    Reference: Gloeckle, Youbi Idrissi, Rozière, Lopez-Paz and Synnaeve (2024), Better & Faster Large Language Models
    via Multi-token Prediction.

    Args:
        scale: Factor of vocabulary, length, layers and attention heads; a head has 64 channels.
        vocabulary: Number of different tokens at scale 1.
        length: Largest number of tokens in a sample at scale 1.
        layers: Number of blocks of the trunk at scale 1.
        heads: Number of attention heads at scale 1.
        ahead: Number of language-model heads.
        chunks: Number of pieces of the sequence in which each loss is computed; see `LanguageTask`.
        dropout: Probability of dropping an entry, in trunk and heads.

    Raises:
        ValueError: A number is out of range.
    """
    small_int("ahead", ahead)
    positive_int("chunks", chunks)
    trunk = scaled_trunk(
        scale, vocabulary=vocabulary, length=length, layers=layers, heads=heads, dropout=dropout, causal=True
    )
    last = nn.Linear(trunk.width, trunk.vocabulary, bias=False)
    tasks = {}
    for steps in range(1, ahead + 1):
        head = LanguageHead(TransformerBlock(trunk.width, trunk.heads, dropout, causal=True), trunk.width, last)
        tasks[f"ahead {steps}"] = LanguageTask(head, Ahead("tokens", steps), chunks=chunks)
    return MultiTaskModel(trunk, tasks, "tokens")
