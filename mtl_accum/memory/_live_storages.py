"""Live tensor storages of a device: their bytes by category, from creation to death."""

from __future__ import annotations

import weakref
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from mtl_accum.memory._peak import Peak
from mtl_accum.memory._readings import Breakdown
from mtl_accum.memory._storages import Event, Storage, storages

__all__ = ["LiveStorages"]


class LiveStorages:
    """Storages of a device from the moment they are added until Python and autograd have released them.

    At any time `size` is the sum of the sizes of the live storages, and `categories` splits it by category. A storage
    has one category at a time. It changes in two cases, and the peak follows both:

    - A storage turns out to be a gradient or optimizer state (`recognise`): it counts as such from its creation on.
    - An activation dies in the generation in which it was created: no backward began in its lifetime, so nothing kept
      it for one, and at the peak it was a temporary.

    Args:
        device: Device whose storages count.
        peak: Peak of the live bytes; the caller sets it.
        round_to: Bytes that sizes are rounded up to a multiple of.
        trace: Whether to keep every event.

    Attributes:
        size: Live bytes.
        categories: Live bytes by category.
        created: Number of storages that have been created.
        generation: Number of backwards that have begun.
        events: Creations and deaths in their order, with `trace`.
    """

    def __init__(self, device: torch.device, peak: Peak, *, round_to: int, trace: bool) -> None:
        self._device, self._peak, self._round_to, self._trace = device, peak, round_to, trace
        self._storages: dict[int, Storage] = {}
        self._sum: Event | None = None  # creation of a gradient sum whose operands may still die
        self.size, self.created, self.generation = 0, 0, 0
        self.categories = {field.name: 0 for field in fields(Breakdown)}
        self.events: list[Event] = []

    def add(self, tensor: Tensor, category: str, operator: Any = None, phase: str = "") -> None:
        """Add the storages of a tensor that are not live yet, and note a changed size of the others.

        Args:
            tensor: Tensor on any device.
            category: Category of new storages.
            operator: Operator that created them, for events.
            phase: Name of the phase, for events.
        """
        if tensor.device == self._device:
            for storage in storages(tensor):
                key, size = id(storage), -(-storage.nbytes() // self._round_to) * self._round_to
                known = self._storages.get(key)
                if known is None:
                    number = self.created + 1
                    event = Event(number, size, str(operator or category), phase) if self._trace else None
                    self._create(key, storage, Storage(size, category, number, self.generation, event))
                elif known.size != size:
                    self._resize(known, size)

    def recognise(self, tensor: Tensor, category: str) -> None:
        """Give activations and temporaries behind a tensor the category that they had from their creation on."""
        for storage in storages(tensor):
            known = self._storages.get(id(storage))
            if known is not None and known.category in ("activations", "temporaries"):
                self.categories[known.category] -= known.size
                self.categories[category] += known.size
                self._peak.move(known.size, known.birth, known.category, category)
                known.category = category

    def begin_sum(self) -> None:
        """Note that the storage created last is a sum of gradients, whose operands die before it in the events."""
        self._sum = self.events[-1] if self._trace else None

    def end_sum(self) -> None:
        """Note that the operands of the latest sum have had the time to die."""
        self._sum = None

    def clear(self) -> None:
        """Stop counting; later deaths are ignored."""
        self._storages.clear()

    def _create(self, key: int, storage: UntypedStorage, new: Storage) -> None:
        self.created += 1
        self._storages[key] = new
        new.reference = weakref.ref(storage, lambda _: self._die(key))
        self.size += new.size
        self.categories[new.category] += new.size
        if new.event is not None:
            self.events.append(new.event)

    def _resize(self, known: Storage, size: int) -> None:
        self.size += size - known.size
        self.categories[known.category] += size - known.size
        if known.event is not None:
            self.events.append(known.event._replace(size=-known.size))
            known.event = known.event._replace(size=size)
            self.events.append(known.event)
        known.size = size

    def _die(self, key: int) -> None:
        known = self._storages.pop(key, None)
        if known is None:  # after `clear`
            return
        self.size -= known.size
        self.categories[known.category] -= known.size
        if known.event is not None:
            self._record_death(known.event, known.size)
        if known.category == "activations" and known.generation == self.generation:
            self._peak.move(known.size, known.birth, "activations", "temporaries")

    def _record_death(self, creation: Event, size: int) -> None:
        index = len(self.events)
        if self._sum is not None and creation is not self._sum:  # an operand of the sum, which autograd adds in place
            index = next(i for i in reversed(range(index)) if self.events[i] is self._sum)
        self.events.insert(index, creation._replace(size=-size))
