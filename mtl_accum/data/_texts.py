"""Drawn texts: a language of numbers in which a word often decides the next one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np

from mtl_accum._scaled import scaled

__all__ = ["Sentences", "Texts"]

_PADDING, _FIRST, _BETWEEN, _MASK, _SPECIAL = 0, 1, 2, 3, 4  # BERT's [PAD], [CLS], [SEP], [MASK]; words from there on
_NONE = -100  # no label
_FOLLOWS = 0.5  # probability that a word decides the next one
_HIDDEN = 0.15  # share of the words that are masked
_MISSING = 0.2  # share of the pairs without a similarity


@final
@dataclass(frozen=True)
class Texts:
    """Draws running text: `tokens` (length,), int64.

    Frequent words are far more frequent than others (Zipf), and half of the words follow from the one before.

    Args:
        scale: of vocabulary and length.
        vocabulary: number of different tokens at scale 1.
        length: tokens of a sample at scale 1.

    Raises:
        ValueError: an argument is out of range.
    """

    scale: float = 1.0
    vocabulary: int = 32000
    length: int = 2048

    def __post_init__(self) -> None:
        scaled(self.vocabulary, self.scale, name="vocabulary")
        scaled(self.length, self.scale, name="length")

    def __call__(self, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample."""
        return {"tokens": _text(draw, scaled(self.length, self.scale), scaled(self.vocabulary, self.scale))}


@final
@dataclass(frozen=True)
class Sentences:
    """Draws pairs of sentences with the targets of eight tasks, in the shapes and types of BERT's.

    A sample: `tokens` (length,), int64, special ones at the beginning, between and behind the sentences, padded with 0;
    `pos`, `ner`, `chunks` (length,), int64, tags, -100 for special tokens and for words that go on with the one before;
    `general` and `medical` (length,), int64, the words behind the masks of a sample of that domain, else -100;
    `sentiment` and `entailment`, int64 classes; `similarity` (1,), float32 from 0 to 5, NaN where nobody judged it.
    Every target follows from the words.

    Args:
        scale: of vocabulary and length.
        vocabulary: number of different tokens at scale 1.
        length: the most tokens of a sample at scale 1.

    Raises:
        ValueError: an argument is out of range, or too small at this scale.
    """

    scale: float = 1.0
    vocabulary: int = 30522
    length: int = 512

    def __post_init__(self) -> None:
        words = scaled(self.vocabulary, self.scale, name="vocabulary")
        length = scaled(self.length, self.scale, name="length")
        if words <= _SPECIAL or length < 8:
            raise ValueError(
                f"scale must leave at least {_SPECIAL + 1} tokens in the vocabulary and 8 in a sample; "
                f"found {words} and {length} at scale {self.scale}"
            )

    def __call__(self, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample."""
        length, vocabulary = scaled(self.length, self.scale), scaled(self.vocabulary, self.scale)
        used = int(draw.integers(length // 2, length + 1))
        first = used // 2  # of the two sentences, with the special token before it
        places = np.array([place for place in range(1, used - 1) if place != first])
        words = _text(draw, len(places), vocabulary - _SPECIAL)
        one, other = words[places < first], words[places > first]

        tokens = np.full(length, _PADDING)
        tokens[[0, first, used - 1]] = _FIRST, _BETWEEN, _BETWEEN
        tokens[places] = words + _SPECIAL
        hidden = draw.random(len(places)) < _HIDDEN
        masked = np.full(length, _NONE)
        masked[places[hidden]] = tokens[places[hidden]]
        tokens[places[hidden]] = _MASK
        domains = {"general": masked, "medical": np.full(length, _NONE)}
        if draw.random() < 0.5:
            domains["general"], domains["medical"] = domains["medical"], domains["general"]

        similarity = np.float32(np.nan) if draw.random() < _MISSING else 5 * (words % 3 == 1).mean(dtype=np.float32)
        more = (one % 3 == 0).mean() - (other % 3 == 0).mean()
        return {
            "tokens": tokens,
            **{name: _spread(tags, places, length, words) for name, tags in _tags(words).items()},
            **domains,
            "sentiment": np.array((one % 2).mean() > (other % 2).mean(), np.int64),
            "entailment": np.array(1 + int(more > 0.05) - int(more < -0.05)),
            "similarity": np.array([similarity], np.float32),
        }


def _tags(words: np.ndarray) -> dict[str, np.ndarray]:
    """Part of speech, entity (outside, or begin and inside of four kinds), and chunk of every word."""
    before = np.concatenate([words[:1], words[:-1]])
    kind, kind_before = words % 5, before % 5
    inside = kind == kind_before
    inside[0] = False
    return {
        "pos": words % 17,
        "ner": np.where(kind == 0, 0, 2 * kind - 1 + inside),
        "chunks": (words % 17 + before % 17) % 23,
    }


def _spread(tags: np.ndarray, places: np.ndarray, length: int, words: np.ndarray) -> np.ndarray:
    """Tags at the places of their words; words that go on with the one before have none."""
    found = np.full(length, _NONE)
    found[places] = np.where(words % 7 == 3, _NONE, tags)
    return found


def _text(draw: np.random.Generator, length: int, vocabulary: int) -> np.ndarray:
    fresh = _zipf(draw, length, vocabulary)
    follows = draw.random(length) < _FOLLOWS
    after = _successors(vocabulary)
    text = fresh.tolist()
    for place in range(1, length):
        if follows[place]:
            text[place] = after[text[place - 1]]
    return np.array(text, np.int64)


@cache
def _successors(vocabulary: int) -> list[int]:
    """What follows each word, the same in every sample."""
    found: list[int] = _zipf(np.random.default_rng(0), vocabulary, vocabulary).tolist()
    return found


def _zipf(draw: np.random.Generator, number: int, vocabulary: int) -> np.ndarray:
    """Words whose frequency falls as 1 / rank (Zipf, 1949)."""
    return np.minimum((vocabulary + 1.0) ** draw.random(number), vocabulary).astype(np.int64) - 1
