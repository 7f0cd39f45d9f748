"""Several data sets, each with the targets of some tasks, as one: a batch comes from one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mtl_accum._validate import Rule, natural, one_of, positive, positive_int
from mtl_accum.data._loader import Loader, _mix

__all__ = ["MixedLoader"]

_POLICIES = ("round_robin", "proportional", "temperature")


class MixedLoader:
    """Batches of several loaders in one order; each trains the tasks whose targets it has.

    - "round_robin": in turns; a loader that is shorter begins again, until the longest has been gone through.
    - "proportional": each as often as it has batches, in a random order.
    - "temperature": with probability proportional to (number of batches) ** (1 / temperature), as many batches as all
      have together (Arivazhagan et al., 2019, Massively Multilingual Neural Machine Translation in the Wild): 1 is
      proportional on the average, a large one treats all alike.

    Args:
        loaders: by name.
        policy: which.
        temperature: of "temperature".
        seed: of the order.

    Raises:
        ValueError: there is no such policy, no loader, or the temperature is not above 0.
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
        """Batches of an epoch."""
        sizes = self._sizes
        return int(len(sizes) * sizes.max()) if self._policy == "round_robin" else int(sizes.sum())

    def __iter__(self) -> Iterator[Any]:
        """One epoch, the next one at every call."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.at(epoch, 0)

    def at(self, epoch: int, batch: int) -> Iterator[Any]:
        """The rest of an epoch; what comes before is not loaded."""
        order = self.order(epoch)
        done = [order[:batch].count(index) for index in range(len(self._loaders))]
        sources = [_endless(loader, epoch, skip) for loader, skip in zip(self._loaders.values(), done, strict=True)]
        for index in order[batch:]:
            yield next(sources[index])

    def order(self, epoch: int) -> list[int]:
        """The loaders by number, batch by batch."""
        count = len(self._sizes)
        if self._policy == "round_robin":
            return list(range(count)) * int(self._sizes.max())
        generator = torch.Generator().manual_seed(_mix(self._seed, epoch))
        if self._policy == "proportional":
            each = torch.arange(count).repeat_interleave(self._sizes)
            found: list[int] = each[torch.randperm(len(each), generator=generator)].tolist()
            return found
        weights = self._sizes.double() ** (1 / self._temperature)
        drawn: list[int] = torch.multinomial(weights, len(self), replacement=True, generator=generator).tolist()
        return drawn


def _endless(loader: Loader, epoch: int, skip: int) -> Iterator[Any]:
    """Batches of a loader in rounds; a round beyond the first has an order of its own."""
    rounds, skip = divmod(skip, len(loader))
    while True:
        yield from loader.at(epoch if not rounds else _mix(epoch, rounds), skip)
        rounds, skip = rounds + 1, 0
