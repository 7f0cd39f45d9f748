"""Mixture of data sets that each have the targets of some tasks; every batch comes from one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mtl_accum._validate import Rule, natural, one_of, positive, positive_int
from mtl_accum.data._loader import Loader
from mtl_accum.data._seeding import mix_seeds

__all__ = ["MixedLoader"]

_POLICIES = ("round_robin", "proportional", "temperature")


class MixedLoader:
    """Batches of several loaders, interleaved by a policy; a batch trains the tasks whose targets it has.

    - "round_robin": Loaders take turns. Shorter loaders start again until the longest is exhausted.
    - "proportional": Every batch of every loader once, in a random order.
    - "temperature": Loaders are drawn with probability proportional to (number of batches) ** (1 / temperature), for as
      many batches as all loaders have together (Arivazhagan et al., 2019, Massively Multilingual Neural Machine
      Translation in the Wild). A temperature of 1 is proportional on average, a large one uniform.

    Args:
        loaders: Loaders by name.
        policy: Name of the policy.
        temperature: Temperature of the policy "temperature".
        seed: Seed of the order.

    Raises:
        ValueError: There is no such policy, there are no loaders, a loader has no batches, the temperature is not above
            0, or the seed is not a natural number.
    """

    def __init__(
        self, loaders: Mapping[str, Loader], policy: str = "proportional", *, temperature: float = 1.0, seed: int = 0
    ) -> None:
        one_of(*_POLICIES)("policy", policy)
        natural("seed", seed)
        Rule(positive.expected, positive.met, "; ")("temperature", temperature)
        if not loaders:
            raise ValueError("loaders must hold at least one, found none")
        for name, loader in loaders.items():
            positive_int(f"batches of {name}", len(loader))
        self._loaders, self._policy, self._temperature, self._seed = dict(loaders), policy, temperature, seed
        self._sizes = torch.tensor([len(loader) for loader in self._loaders.values()])
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        sizes = self._sizes
        return int(len(sizes) * sizes.max()) if self._policy == "round_robin" else int(sizes.sum())

    def __iter__(self) -> Iterator[Any]:
        """Iterate over one epoch; every call starts the next epoch."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.at(epoch, 0)

    def at(self, epoch: int, batch: int) -> Iterator[Any]:
        """Iterate over an epoch from a given batch on; earlier batches are not loaded."""
        order = self.order(epoch)
        skips = [order[:batch].count(index) for index in range(len(self._loaders))]
        sources = [_endless(loader, epoch, skip) for loader, skip in zip(self._loaders.values(), skips, strict=True)]
        for index in order[batch:]:
            yield next(sources[index])

    def order(self, epoch: int) -> list[int]:
        """Return the index of the loader for each batch of an epoch."""
        count = len(self._sizes)
        if self._policy == "round_robin":
            return list(range(count)) * int(self._sizes.max())
        generator = torch.Generator().manual_seed(mix_seeds(self._seed, epoch))
        if self._policy == "proportional":
            indices = torch.arange(count).repeat_interleave(self._sizes)
            shuffled: list[int] = indices[torch.randperm(len(indices), generator=generator)].tolist()
            return shuffled
        weights = self._sizes.double() ** (1 / self._temperature)
        drawn: list[int] = torch.multinomial(weights, len(self), replacement=True, generator=generator).tolist()
        return drawn


def _endless(loader: Loader, epoch: int, skip: int) -> Iterator[Any]:
    """Iterate over a loader again and again; every round after the first has an order of its own."""
    rounds, skip = divmod(skip, len(loader))
    while True:
        yield from loader.at(epoch if not rounds else mix_seeds(epoch, rounds), skip)
        rounds, skip = rounds + 1, 0
