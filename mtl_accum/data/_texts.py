"""Synthetic texts: sequences of word numbers in which a word often determines the next one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np

from mtl_accum._scaled import scaled

__all__ = ["Sentences", "Texts"]

_PADDING, _FIRST, _BETWEEN, _MASK = range(4)  # [PAD], [CLS], [SEP] and [MASK] of BERT
_SPECIAL = 4  # number of special tokens; words are numbered from here on
_NONE = -100  # label of tokens without a label
_FOLLOWS = 0.5  # probability that a word determines the next one
_HIDDEN = 0.15  # share of masked words
_MISSING = 0.2  # share of pairs without a similarity


@final
@dataclass(frozen=True)
class Texts:
    """Generator of running text: `tokens` (length,), int64.

    Word frequencies follow Zipf's law, and half of the words are determined by the previous word.

    Args:
        scale: Factor of vocabulary and length.
        vocabulary: Number of different tokens at scale 1.
        length: Number of tokens in a sample at scale 1.

    Raises:
        ValueError: An argument is out of range.
    """

    scale: float = 1.0
    vocabulary: int = 32000
    length: int = 2048

    def __post_init__(self) -> None:
        scaled(self.vocabulary, self.scale, name="vocabulary")
        scaled(self.length, self.scale, name="length")

    def __call__(self, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """Generate one sample."""
        return {"tokens": _text(draw, scaled(self.length, self.scale), scaled(self.vocabulary, self.scale))}


@final
@dataclass(frozen=True)
class Sentences:
    """Generator of pairs of sentences with the targets of eight tasks, in the shapes and types of BERT's data.

    A sample: `tokens` (length,), int64, with special tokens before, between and after the sentences, padded with 0;
    `pos`, `ner`, `chunks` (length,), int64, tags, -100 for special tokens and for words that continue the previous one;
    `general` and `medical` (length,), int64, the masked words in samples of that domain, else -100; `sentiment` and
    `entailment`, int64 classes; `similarity` (1,), float32 from 0 to 5, NaN where it is missing. The words determine
    every target.

    Args:
        scale: Factor of vocabulary and length.
        vocabulary: Number of different tokens at scale 1.
        length: Largest number of tokens in a sample at scale 1.

    Raises:
        ValueError: An argument is out of range, or too small at this scale.
    """

    scale: float = 1.0
    vocabulary: int = 30522
    length: int = 512

    def __post_init__(self) -> None:
        vocabulary = scaled(self.vocabulary, self.scale, name="vocabulary")
        length = scaled(self.length, self.scale, name="length")
        if vocabulary <= _SPECIAL or length < 8:
            raise ValueError(
                f"scale must leave at least {_SPECIAL + 1} tokens in the vocabulary and 8 in a sample; "
                f"found {vocabulary} and {length} at scale {self.scale}"
            )

    def __call__(self, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """Generate one sample."""
        length, vocabulary = scaled(self.length, self.scale), scaled(self.vocabulary, self.scale)
        used = int(draw.integers(length // 2, length + 1))
        first = used // 2  # tokens of the first sentence and the special token before it
        positions = np.array([position for position in range(1, used - 1) if position != first])
        words = _text(draw, len(positions), vocabulary - _SPECIAL)
        one, other = words[positions < first], words[positions > first]

        tokens = np.full(length, _PADDING)
        tokens[[0, first, used - 1]] = _FIRST, _BETWEEN, _BETWEEN
        tokens[positions] = words + _SPECIAL
        hidden = draw.random(len(positions)) < _HIDDEN
        masked = np.full(length, _NONE)
        masked[positions[hidden]] = tokens[positions[hidden]]
        tokens[positions[hidden]] = _MASK
        domains = {"general": masked, "medical": np.full(length, _NONE)}
        if draw.random() < 0.5:
            domains["general"], domains["medical"] = domains["medical"], domains["general"]

        similarity = np.float32(np.nan) if draw.random() < _MISSING else 5 * (words % 3 == 1).mean(dtype=np.float32)
        more = (one % 3 == 0).mean() - (other % 3 == 0).mean()
        return {
            "tokens": tokens,
            **{name: _spread(tags, positions, length, words) for name, tags in _tags(words).items()},
            **domains,
            "sentiment": np.array((one % 2).mean() > (other % 2).mean(), np.int64),
            "entailment": np.array(1 + int(more > 0.05) - int(more < -0.05)),
            "similarity": np.array([similarity], np.float32),
        }


def _tags(words: np.ndarray) -> dict[str, np.ndarray]:
    """Return every word's part of speech, entity (outside, or begin and inside of four kinds) and chunk."""
    before = np.concatenate([words[:1], words[:-1]])
    kind, kind_before = words % 5, before % 5
    inside = kind == kind_before
    inside[0] = False
    return {
        "pos": words % 17,
        "ner": np.where(kind == 0, 0, 2 * kind - 1 + inside),
        "chunks": (words % 17 + before % 17) % 23,
    }


def _spread(tags: np.ndarray, positions: np.ndarray, length: int, words: np.ndarray) -> np.ndarray:
    """Return tags at the positions of their words; words that continue the previous one have no tag."""
    labels = np.full(length, _NONE)
    labels[positions] = np.where(words % 7 == 3, _NONE, tags)
    return labels


def _text(draw: np.random.Generator, length: int, vocabulary: int) -> np.ndarray:
    """Draw running text in which a word often determines the next one."""
    words = _zipf(draw, length, vocabulary).tolist()
    follows = draw.random(length) < _FOLLOWS
    successors = _successors(vocabulary)
    for position in range(1, length):
        if follows[position]:
            words[position] = successors[words[position - 1]]
    return np.array(words, np.int64)


@cache
def _successors(vocabulary: int) -> list[int]:
    """Return the word that follows each word, the same in every sample."""
    successors: list[int] = _zipf(np.random.default_rng(0), vocabulary, vocabulary).tolist()
    return successors


def _zipf(draw: np.random.Generator, number: int, vocabulary: int) -> np.ndarray:
    """Draw words with a frequency proportional to 1 / rank (Zipf, 1949)."""
    return np.minimum((vocabulary + 1.0) ** draw.random(number), vocabulary).astype(np.int64) - 1
