"""The networks and the data of the study, one for each situation; all peers train the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LR", "SITUATIONS", "Contrastive", "MultiTask", "Situation", "Vocabulary"]

LR = 0.05  # of SGD without momentum: it has no state, whose memory would be the same in every row
Batch = dict[str, Tensor]
_CHANNELS = {"segmentation": 13, "depth": 1, "normals": 3, "edges": 1, "shading": 1, "albedo": 3, "flow": 2, "parts": 7}
_CLASSES = ("segmentation", "parts")


class MultiTask(nn.Module):
    """A convolutional trunk and eight dense heads, with dropout in both; the heads need most of the memory.

    Attributes:
        trunk: Module from images to feature maps.
        heads: Modules by task, from feature maps to an image.
        losses: Functions by task, of the head's output and the target.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        width = 24
        self.trunk = nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.heads = nn.ModuleDict({name: self._head(width, out, dropout) for name, out in _CHANNELS.items()})
        self.losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            name: F.cross_entropy if name in _CLASSES else F.mse_loss for name in _CHANNELS
        }

    @staticmethod
    def _head(width: int, out: int, dropout: float) -> nn.Module:
        layers = (nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Dropout(dropout), nn.Conv2d(width, out, 1))
        return nn.Sequential(*layers)

    @staticmethod
    def batch(scale: float, generator: torch.Generator) -> Batch:
        """Make images and the targets of all tasks."""
        samples, side = max(8, round(8 * scale)), 48 if scale >= 0.5 else 8
        batch = {"x": torch.randn(samples, 3, side, side, generator=generator)}
        for name, out in _CHANNELS.items():
            if name in _CLASSES:
                batch[name] = torch.randint(0, out, (samples, side, side), generator=generator)
            else:
                batch[name] = torch.randn(samples, out, side, side, generator=generator)
        return batch


class Contrastive(nn.Module):
    """One encoder of short sequences for queries and for documents; every other document is a negative.

    Attributes:
        encoder: Module from sequences to embeddings.
        rows: Number of rows of either side that a method in chunks may hold with a graph.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        width, self.rows = 128, 32
        self.encoder = nn.Sequential(
            *(nn.Linear(64, width), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Flatten(), nn.Linear(16 * width, 64)),
        )

    @staticmethod
    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        """Return the cross-entropy over 20 times the cosine similarities, as in sentence-transformers."""
        similarities = 20.0 * F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T
        return F.cross_entropy(similarities, torch.arange(len(queries), device=queries.device))

    @staticmethod
    def batch(scale: float, generator: torch.Generator) -> Batch:
        """Make queries and their documents."""
        pairs = max(48, round(512 * scale))
        return {name: torch.randn(pairs, 16, 64, generator=generator) for name in ("queries", "documents")}


class Vocabulary(nn.Module):
    """A small trunk over tokens and one linear head over a large vocabulary.

    Attributes:
        trunk: Module from tokens to features.
        head: Module from features to a score for every word.
        chunks: Number of chunks of the tokens.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        width, words, self.chunks = 128, 8192, 8
        self.trunk = nn.Sequential(
            *(nn.Linear(64, width), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(width, width), nn.Dropout(dropout)),
        )
        self.head = nn.Linear(width, words)

    @staticmethod
    def batch(scale: float, generator: torch.Generator) -> Batch:
        """Make tokens and the words that come next."""
        tokens = max(64, round(512 * scale))
        words = torch.randint(0, 8192, (tokens,), generator=generator)
        return {"x": torch.randn(tokens, 64, generator=generator), "word": words}


Network = MultiTask | Contrastive | Vocabulary


@dataclass(frozen=True)
class Situation:
    """The network of a group of rows; the first row of the group is the reference of the others.

    Attributes:
        title: Title of the group's table.
        network: Class of the network.
        about: Description in a sentence.
    """

    title: str
    network: type[Network]
    about: str

    def make(self, *, device: str, dtype: torch.dtype, dropout: float = 0.1) -> Network:
        """Build the network, always with the same weights."""
        torch.manual_seed(0)
        return self.network(dropout).to(device, dtype)

    def batches(self, number: int, scale: float, *, device: str, dtype: torch.dtype) -> list[Batch]:
        """Make a number of different batches, always the same ones."""
        generator = torch.Generator().manual_seed(1)
        made = [self.network.batch(scale, generator) for _ in range(number)]
        return [
            {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in batch.items()}
            for batch in made
        ]

    def size(self, scale: float) -> str:
        """Describe the batch and the parameters in words."""
        batch = self.network.batch(scale, torch.Generator().manual_seed(1))
        parameters = sum(parameter.numel() for parameter in self.network(0.0).parameters())
        first = next(iter(batch.values()))
        return f"{parameters:,} parameters, batch {' x '.join(map(str, first.shape))}"


SITUATIONS = {
    "tasks": Situation(
        "Eight tasks on one trunk",
        MultiTask,
        "A convolutional trunk and eight dense heads with dropout; the heads need most of the memory.",
    ),
    "contrastive": Situation(
        "One contrastive loss over the whole batch",
        Contrastive,
        "One encoder for queries and documents; every pair of the batch enters the loss, so the batch cannot shrink.",
    ),
    "vocabulary": Situation(
        "One head over a large vocabulary",
        Vocabulary,
        "A small trunk over tokens and one linear head with 8,192 classes; the logits need most of the memory.",
    ),
}
