"""A transformer on tokens: BERT's encoder and GPT's decoder are its two forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum._scaled import scaled
from mtl_accum._validate import positive_int, probability, small_int

__all__ = ["TransformerBlock", "TransformerTrunk", "scaled_trunk"]

_HEAD_WIDTH = 64  # of an attention head, at every scale


class TransformerBlock(nn.Module):
    """Self-attention and two linear layers, each with dropout and a shortcut: (N, L, width) -> (N, L, width).

    Reference: Vaswani et al. (2017), Attention Is All You Need.

    Args:
        width: of the representation of a token, a multiple of heads.
        heads: of the attention.
        dropout: probability to drop an entry, of the attention's weights too.
        causal: a token sees itself and those before it, and normalisation comes first (GPT-2); else a token sees all,
            and normalisation comes last (BERT).

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.1, *, causal: bool = False) -> None:
        super().__init__()
        positive_int("width", width)
        positive_int("heads", heads)
        probability("dropout", dropout)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads; found {width} and {heads}")
        self._heads, self._dropout, self._causal = heads, dropout, causal
        self.attention_norm, self.layers_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        """(N, L, width) -> (N, L, width); `seen` (N, 1, 1, L) says which tokens may be looked at."""
        if self._causal:
            tokens = tokens + self.dropout(self._attention(self.attention_norm(tokens), seen))
            tokens = tokens + self.dropout(self.layers(self.layers_norm(tokens)))
        else:
            tokens = self.attention_norm(tokens + self.dropout(self._attention(tokens, seen)))
            tokens = self.layers_norm(tokens + self.dropout(self.layers(tokens)))
        return tokens

    def _attention(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        samples, length, width = tokens.shape
        query, key, value = self.qkv(tokens).view(samples, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, seen, self._dropout if self.training else 0.0, is_causal=self._causal
        )
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(samples, length, width))
        return found


class TransformerTrunk(nn.Module):
    """Embeddings of tokens and positions, and blocks: (N, L) int64 -> (N, L, width).

    References: Devlin et al. (2019), BERT; Radford et al. (2019), Language Models are Unsupervised Multitask Learners.

    Args:
        vocabulary: number of different tokens.
        length: the most tokens of a sample.
        width: of the representation of a token.
        layers: number of blocks.
        heads: of each block's attention.
        dropout: probability to drop an entry.
        causal: a decoder in place of an encoder; see `TransformerBlock`.
        padding: the token that no other one sees; None where every token counts.

    Attributes:
        vocabulary: number of different tokens.
        width: of the representation of a token.
        heads: of each block's attention.

    Raises:
        ValueError: a number is out of range, or padding is asked of a decoder.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        *,
        dropout: float = 0.1,
        causal: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        positive_int("vocabulary", vocabulary)
        positive_int("length", length)
        small_int("layers", layers)
        probability("dropout", dropout)
        if causal and padding is not None:
            raise ValueError(f"padding must be None where causal is true; found {padding}")
        self.vocabulary, self.width, self.heads = vocabulary, width, heads
        self._padding = padding
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout, causal=causal) for _ in range(layers))
        self._norm_last = causal
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """(N, L) int64 -> (N, L, width)."""
        seen = None if self._padding is None else (ids != self._padding)[:, None, None, :]
        places = torch.arange(ids.shape[1], device=ids.device)
        tokens = self.tokens(ids) + self.positions(places)
        tokens = self.dropout(tokens if self._norm_last else self.norm(tokens))
        for block in self.blocks:
            tokens = block(tokens, seen)
        found: Tensor = self.norm(tokens) if self._norm_last else tokens
        return found


def scaled_trunk(
    scale: float, *, vocabulary: int, length: int, layers: int, heads: int, dropout: float, **form: Any
) -> TransformerTrunk:
    """A trunk at another scale, with attention heads of 64 channels each.

    Args:
        scale: of vocabulary, length, layers and attention heads.
        vocabulary: number of different tokens at scale 1.
        length: the most tokens of a sample at scale 1.
        layers: blocks at scale 1.
        heads: of the attention at scale 1.
        dropout: probability to drop an entry.
        form: `causal` or `padding`; see `TransformerTrunk`.

    Raises:
        ValueError: a number is out of range.
    """
    words, several = scaled(vocabulary, scale, name="vocabulary"), scaled(heads, scale, name="heads")
    most, depth = scaled(length, scale, name="length"), scaled(layers, scale, name="layers")
    return TransformerTrunk(words, most, _HEAD_WIDTH * several, depth, several, dropout=dropout, **form)
