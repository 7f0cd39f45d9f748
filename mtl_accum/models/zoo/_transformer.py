"""Transformer on tokens: an encoder as in BERT, or a decoder as in GPT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum._scaled import scaled
from mtl_accum._validate import positive_int, probability, small_int

__all__ = ["TransformerBlock", "TransformerTrunk", "scaled_trunk"]

_HEAD_WIDTH = 64  # channels of an attention head, at every scale


class TransformerBlock(nn.Module):
    """Self-attention and two linear layers, each with dropout and a shortcut: (N, L, width) -> (N, L, width).

    Reference: Vaswani et al. (2017), Attention Is All You Need.

    Args:
        width: Number of channels of a token, a multiple of `heads`.
        heads: Number of attention heads.
        dropout: Probability of dropping an entry, including entries of the attention weights.
        causal: Whether a token attends only to itself and earlier tokens, with normalisation first (GPT-2). By default
            a token attends to all tokens, with normalisation last (BERT).

    Raises:
        ValueError: A number is out of range.
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

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens (N, L, width) to tokens (N, L, width); `mask` (N, 1, 1, L) is true for tokens to attend to."""
        if self._causal:
            tokens = tokens + self.dropout(self._attention(self.attention_norm(tokens), mask))
            tokens = tokens + self.dropout(self.layers(self.layers_norm(tokens)))
        else:
            tokens = self.attention_norm(tokens + self.dropout(self._attention(tokens, mask)))
            tokens = self.layers_norm(tokens + self.dropout(self.layers(tokens)))
        return tokens

    def _attention(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        samples, length, width = tokens.shape
        query, key, value = self.qkv(tokens).view(samples, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, mask, self._dropout if self.training else 0.0, is_causal=self._causal
        )
        outputs: Tensor = self.out(mixed.transpose(1, 2).reshape(samples, length, width))
        return outputs


class TransformerTrunk(nn.Module):
    """Embeddings of tokens and positions, followed by blocks: (N, L) int64 -> (N, L, width).

    References: Devlin et al. (2019), BERT; Radford et al. (2019), Language Models are Unsupervised Multitask Learners.

    Args:
        vocabulary: Number of different tokens.
        length: Largest number of tokens in a sample.
        width: Number of channels of a token.
        layers: Number of blocks.
        heads: Number of attention heads in each block.
        dropout: Probability of dropping an entry.
        causal: Whether to build a decoder instead of an encoder; see `TransformerBlock`.
        padding: Token to which no token attends; None if all tokens count. Encoders only.

    Attributes:
        vocabulary: Number of different tokens.
        width: Number of channels of a token.
        heads: Number of attention heads in each block.

    Raises:
        ValueError: A number is out of range, or a decoder is given `padding`.
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
        """Map tokens (N, L), int64, to (N, L, width)."""
        mask = None if self._padding is None else (ids != self._padding)[:, None, None, :]
        positions = torch.arange(ids.shape[1], device=ids.device)
        tokens = self.tokens(ids) + self.positions(positions)
        tokens = self.dropout(tokens if self._norm_last else self.norm(tokens))
        for block in self.blocks:
            tokens = block(tokens, mask)
        outputs: Tensor = self.norm(tokens) if self._norm_last else tokens
        return outputs


def scaled_trunk(
    scale: float, *, vocabulary: int, length: int, layers: int, heads: int, dropout: float, **form: Any
) -> TransformerTrunk:
    """Build a trunk at a given scale, with attention heads of 64 channels each.

    Args:
        scale: Factor of vocabulary, length, layers and attention heads.
        vocabulary: Number of different tokens at scale 1.
        length: Largest number of tokens in a sample at scale 1.
        layers: Number of blocks at scale 1.
        heads: Number of attention heads at scale 1.
        dropout: Probability of dropping an entry.
        form: `causal` or `padding`; see `TransformerTrunk`.

    Raises:
        ValueError: A number is out of range.
    """
    heads = scaled(heads, scale, name="heads")
    return TransformerTrunk(
        scaled(vocabulary, scale, name="vocabulary"),
        scaled(length, scale, name="length"),
        _HEAD_WIDTH * heads,
        scaled(layers, scale, name="layers"),
        heads,
        dropout=dropout,
        **form,
    )
