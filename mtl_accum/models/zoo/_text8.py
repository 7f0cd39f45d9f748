"""Text encoder with eight tasks: tags of tokens, properties of sentences, masked words."""

from __future__ import annotations

from torch import Tensor, nn

from mtl_accum.models._count_functions import count_labels, count_present
from mtl_accum.models._masked import MaskedLoss, TokenCrossEntropy, is_present, squared_error
from mtl_accum.models._multi_task import MultiTaskModel, Task
from mtl_accum.models.zoo._transformer import scaled_trunk

__all__ = ["MaskedWordHead", "SentenceHead", "TokenHead", "text8"]

_TAGS = {"pos": 17, "ner": 9, "chunks": 23}  # classes: universal parts of speech, CoNLL-2003's and CoNLL-2000's labels
_SENTENCES = {"sentiment": 2, "entailment": 3}


class TokenHead(nn.Sequential):
    """Dropout and linear layer on every token: (N, L, width) -> (N, L, classes).

    Args:
        width: Number of channels of the representation.
        classes: Number of labels.
        dropout: Probability of dropping an entry.
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__(nn.Dropout(dropout), nn.Linear(width, classes))


class SentenceHead(nn.Module):
    """BERT's pooler on the first token, dropout and linear layer: (N, L, width) -> (N, outputs).

    Args:
        width: Number of channels of the representation.
        outputs: Number of classes, or of values to predict.
        dropout: Probability of dropping an entry.
    """

    def __init__(self, width: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, L, width) to (N, outputs)."""
        outputs: Tensor = self.layers(tokens[:, 0])
        return outputs


class MaskedWordHead(nn.Sequential):
    """BERT's masked-word head: (N, L, width) -> (N, L, vocabulary).

    Args:
        width: Number of channels of the representation.
        vocabulary: Number of different tokens.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, vocabulary))


def text8(
    scale: float = 1.0,
    *,
    vocabulary: int = 30522,
    length: int = 512,
    layers: int = 12,
    heads: int = 12,
    dropout: float = 0.1,
) -> MultiTaskModel:
    """Build BERT-base with eight heads: three for tokens, three for pairs of sentences, two for masked words.

    The batch has `tokens` (N, L), int64, 0 being padding; `pos` (17 tags), `ner` (9), `chunks` (23), `general` and
    `medical` (masked words of two domains), all (N, L), int64, -100 where there is no label; `sentiment` (2 classes)
    and `entailment` (3), (N,), int64; `similarity` (N, 1), from 0 to 5, NaN where it is missing.

    References: Devlin et al. (2019), BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding;
    Liu et al. (2019), Multi-Task Deep Neural Networks for Natural Language Understanding.

    Args:
        scale: Factor of vocabulary, length, layers and attention heads; a head has 64 channels.
        vocabulary: Number of different tokens at scale 1.
        length: Largest number of tokens in a sample at scale 1.
        layers: Number of blocks of the trunk at scale 1.
        heads: Number of attention heads at scale 1.
        dropout: Probability of dropping an entry, in trunk and heads.

    Raises:
        ValueError: A number is out of range.
    """
    trunk = scaled_trunk(
        scale, vocabulary=vocabulary, length=length, layers=layers, heads=heads, dropout=dropout, padding=0
    )
    width = trunk.width
    tasks = {
        name: Task(TokenHead(width, classes, dropout), TokenCrossEntropy(), name, count=count_labels(name))
        for name, classes in _TAGS.items()
    }
    tasks |= {
        name: Task(SentenceHead(width, classes, dropout), nn.CrossEntropyLoss(), name)
        for name, classes in _SENTENCES.items()
    }
    tasks["similarity"] = Task(
        SentenceHead(width, 1, dropout),
        MaskedLoss(squared_error, is_present),
        "similarity",
        count=count_present("similarity"),
    )
    tasks |= {
        domain: Task(MaskedWordHead(width, trunk.vocabulary), TokenCrossEntropy(), domain, count=count_labels(domain))
        for domain in ("general", "medical")
    }
    return MultiTaskModel(trunk, tasks, "tokens")
