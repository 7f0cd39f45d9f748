"""Several language-model heads on one decoder: head k predicts the token k steps ahead."""

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
    """A target: the tokens so many steps ahead, (N, L) -> (N, L), -100 where the text has ended.

    Args:
        key: of the batch, where the tokens are.
        steps: how far ahead.
    """

    def __init__(self, key: str, steps: int) -> None:
        positive_int("steps", steps)
        self._key, self._steps = key, steps

    def __call__(self, batch: Any) -> Tensor:
        """The target of a batch."""
        return F.pad(batch[self._key][:, self._steps :], (0, self._steps), value=-100)


class LanguageHead(nn.Module):
    """A block, normalisation and a linear layer to the vocabulary: (N, L, width) -> (N, L, vocabulary).

    Args:
        block: (N, L, width) -> (N, L, width).
        width: of the representation.
        words: the linear layer; heads may share it.
    """

    def __init__(self, block: nn.Module, width: int, words: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.Sequential(block, nn.LayerNorm(width))
        self.words = words

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, width) -> (N, L, vocabulary)."""
        logits: Tensor = self.words(self.hidden(tokens))
        return logits


class LanguageTask(Task):
    """A language model's loss, in chunks of the sequence: the logits of all tokens never exist at once.

    `weight * cross_entropy(head(representation), target)`, a mean over the labels that are not -100. Each chunk makes
    its logits and their gradient at once, see `chunked`: logits, their log-softmax and their gradient exist for
    1 / chunks of the tokens. The gradient of the last layer is held until the backward: once for each head where the
    losses of heads that share the layer wait for one backward, as under `SummedLoss`.

    Args:
        head: whose `words` run chunk by chunk.
        target: key of the batch, or callable of it: labels (N, L), int64, -100 where there is none.
        weight: as a `Task` has it.
        chunks: pieces of the sequence; 1 makes all logits at once, in autograd's own graph.

    Raises:
        ValueError: chunks is less than 1.
    """

    def __init__(self, head: LanguageHead, target: Selector, weight: Weight = 1.0, *, chunks: int = 1) -> None:
        positive_int("chunks", chunks)
        super().__init__(head, TokenCrossEntropy(), target, weight, count_labels(target))
        self._chunks = chunks

    def forward(self, representation: Any, batch: Any) -> Tensor:
        """The weighted loss, a 0-dim tensor."""
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
    """Return what a sum over so many labels will be multiplied by before its backward.

    Where that is unknown, 1: in fp16 the gradient of a sum needs no scale, as that of a mean does.
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
    """A GPT-like decoder that predicts several tokens ahead; each head is a block, and all share the last layer.

    The batch has `tokens` (N, L), int64. Task `ahead k` predicts the token k steps ahead. The paper runs the heads one
    after the other on the detached representation to save memory: that is `Split`.

    Reference: Gloeckle, Youbi Idrissi, Rozière, Lopez-Paz and Synnaeve (2024), Better & Faster Large Language Models
    via Multi-token Prediction.

    Args:
        scale: of vocabulary, length, layers and attention heads, of 64 channels each.
        vocabulary: number of different tokens at scale 1.
        length: the most tokens of a sample at scale 1.
        layers: blocks of the trunk at scale 1.
        heads: of the attention at scale 1.
        ahead: number of language-model heads.
        chunks: pieces of the sequence that each loss is computed in; see `LanguageTask`.
        dropout: probability to drop an entry, in trunk and heads.

    Raises:
        ValueError: a number is out of range.
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
