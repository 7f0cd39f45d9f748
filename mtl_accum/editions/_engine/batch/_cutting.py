"""Slices of a batch along its samples: tensors, containers of tensors, lists with an entry per sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from mtl_accum.editions._engine.batch._pytree import Batched, PerSample, children, unflatten
from mtl_accum.editions._engine.batch._refusals import refuse_uncuttable

__all__ = ["Range", "cutter", "samples_of", "take"]

Range = tuple[int, int]  # from the first sample to the second number, which is excluded
Cutter = Callable[[Range], Any]

_LISTS = (list, tuple, deque, PerSample, Batched)


def cutter(tree: Any, what: str, samples: int, *, of_batch: bool = True) -> Cutter:
    """Return a function that takes a range of samples out of a container: of every tensor a view of its rows.

    There are two kinds of lists and tuples. If all tensors in a list have `samples` rows, the list is a container of
    batched tensors (feature maps). Otherwise, if the list has `samples` entries, each entry belongs to one sample
    (ragged boxes, captions). Numbers, strings and None outside of lists belong to all samples.

    Args:
        tree: Container. A list that is the whole batch, as a loader makes of (input, target), is a container too.
        what: Name of the container in messages.
        samples: Number of samples.
        of_batch: Whether lists with an entry per sample are allowed: in a batch, not in a representation.

    Raises:
        TypeError: The tree has an unknown container; the message has its path.
        ValueError: A tensor has other than the samples in dimension 0, or a list can be of both kinds or of none; the
            message has its path.
    """
    return _Reader(samples, of_batch).root(tree, what).take


def take(tree: Any, samples: Range) -> Any:
    """Take some samples out of a batch.

    Raises:
        TypeError: See `samples_of`.
        ValueError: See `samples_of`.
    """
    return cutter(tree, "batch", samples_of(tree, "batch"))(samples)


def samples_of(tree: Any, what: str) -> int:
    """Return the number of samples of a container.

    That is the size of dimension 0, which all tensors outside of lists must share. Without such a tensor it is the one
    number with which all lists are of one of their two kinds (see `cutter`).

    Raises:
        TypeError: The tree has an unknown container; the message has its path.
        ValueError: There is no tensor and no list, two tensors disagree, or lists allow several numbers.
    """
    sized = list(_sized(tree, what, root=True))
    if sized:
        path, rows = next(((path, rows) for path, rows in sized if rows is not None), sized[0])
        for other, size in sized:
            if size != rows or size is None:
                raise _mismatch(other, _at(tree, what, other), rows, path)
        assert rows is not None
        return rows
    outer = list(_lists(tree, what))
    sizes = {len(values) for values in outer} | {
        first.shape[0] for values in outer if (first := _first_tensor(values)) is not None and first.dim()
    }
    fitting = [size for size in sorted(sizes - {0}) if _fits(tree, what, size)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(
            f"{what}: to be cut, expected one number of samples; its lists can be read as "
            f"{' or '.join(map(str, fitting))} samples. Wrap those with an entry a sample in mtl_accum.PerSample"
        )
    if outer:
        cutter(tree, what, max(sizes))  # raises, with the path
    raise ValueError(f"{what}: to be cut, expected a tensor with the samples in dimension 0, found no tensor")


class _Cut(NamedTuple):
    """The function that cuts a part of a container, and whether there are tensors in that part."""

    take: Cutter
    tensors: bool


class _Reader(NamedTuple):
    """Reader of containers with a known number of samples."""

    samples: int
    of_batch: bool

    def root(self, tree: Any, path: str) -> _Cut:
        """Read the whole container; see `cutter`."""
        if self.of_batch and type(tree) in (list, tuple, deque):
            try:
                cut = self._container(tree, path)
            except (TypeError, ValueError):
                return self._list(tree, path)
            return cut if cut.tensors else self._list(tree, path)
        return self.read(tree, path)

    def read(self, tree: Any, path: str) -> _Cut:
        refuse_uncuttable(path, tree)
        if isinstance(tree, Tensor):
            if not tree.dim() or tree.shape[0] != self.samples:
                raise _mismatch(path, tree, self.samples, fix=_FIX if self.of_batch else _FIX_OF_REPRESENTATION)
            return _Cut(lambda samples: tree[slice(*samples)], tensors=True)
        return self._list(tree, path) if type(tree) in _LISTS else self._container(tree, path)

    def _container(self, tree: Any, path: str) -> _Cut:
        pairs, spec = children(tree, path)
        if not pairs or pairs[0][1] is tree:  # empty, or a number or text that all samples share
            return _Cut(lambda _: tree, tensors=False)
        cuts = [self.read(child, inner) for inner, child in pairs]
        return _Cut(lambda samples: unflatten([cut.take(samples) for cut in cuts], spec), any(c.tensors for c in cuts))

    def _list(self, values: Any, path: str) -> _Cut:
        mine = len(values) == self.samples and self.of_batch
        if isinstance(values, PerSample):
            if mine:
                return _entries(values)
            raise self._unreadable(values, path)
        try:
            cut = self._container(values, path)
        except (TypeError, ValueError) as error:
            if mine and not isinstance(values, Batched):
                return _entries(values)
            raise self._unreadable(values, path, error) from error
        if not cut.tensors:
            if mine:
                return _entries(values)
            if values and (self.of_batch or len(values) == self.samples):
                raise self._unreadable(values, path)
            return cut  # empty; or numbers in a representation, which belong to all samples
        if mine and self.samples > 1 and _alike(values) and not isinstance(values, Batched):
            raise ValueError(
                f"{path}: to be cut, expected either an entry for each of the {self.samples} samples or tensors with "
                f"{self.samples} rows; found {self.samples} entries of {self.samples} rows, which can be both. Wrap it "
                "in mtl_accum.PerSample for the first, in mtl_accum.Batched for the second"
            )
        # A piece can be of both kinds where the whole is not, so the piece is marked.
        return cut._replace(take=lambda samples: Batched(cut.take(samples))) if self.of_batch else cut

    def _unreadable(self, values: Any, path: str, error: Exception | None = None) -> Exception:
        hint = f"as a list with an entry a sample it needs {self.samples} entries, found {len(values)}"
        if not self.of_batch:
            hint = "a representation is cut along dimension 0 of its tensors; make a list with an entry a sample one"
        if error is not None:
            return error if "entry a sample it needs" in str(error) else type(error)(f"{error}; {hint}")
        return ValueError(
            f"{path}: to be cut, expected tensors with {self.samples} rows; found a {type(values).__name__} of "
            f"{len(values)} {type(next(iter(values), None)).__name__}s; {hint}. Hand over what all samples share by "
            "another way than the batch"
        )


def _entries(values: Any) -> _Cut:
    return _Cut(lambda samples: PerSample(list(values)[slice(*samples)]), tensors=True)


def _fits(tree: Any, what: str, samples: int) -> bool:
    try:
        cutter(tree, what, samples)
    except (TypeError, ValueError):
        return False
    return True


def _alike(values: Any) -> bool:
    """Return whether the entries of a list could be samples: all of one kind."""

    def kind(entry: Any) -> Any:
        if isinstance(entry, Tensor):
            return entry.dim(), entry.dtype
        return (type(entry), tuple(entry)) if isinstance(entry, dict) else type(entry)

    return len({kind(entry) for entry in values if entry is not None}) == 1


def _sized(tree: Any, path: str, *, root: bool = False) -> Iterator[tuple[str, int | None]]:
    """Yield the rows of every tensor outside of lists (None for a 0-dim tensor), and the length of a `PerSample`."""
    refuse_uncuttable(path, tree)
    if isinstance(tree, Tensor):
        yield path, tree.shape[0] if tree.dim() else None
    elif isinstance(tree, PerSample):
        yield path, len(tree)
    elif isinstance(tree, Batched):
        yield from ((f"{path}[{index}]", child.shape[0]) for index, child in enumerate(tree) if _has_rows(child))
    elif root or type(tree) not in _LISTS:
        if root and type(tree) in _LISTS:  # its other entries may be samples, whatever their class
            pairs = [(f"{path}[{index}]", child) for index, child in enumerate(tree) if isinstance(child, Tensor)]
        else:
            pairs = children(tree, path)[0]
        for inner, child in pairs:
            if child is not tree:
                yield from _sized(child, inner)


def _lists(tree: Any, path: str) -> Iterator[Any]:
    """Yield the outermost lists; of a list of lists, as a loader makes of (images, targets), those in it."""
    if type(tree) in _LISTS:
        yield from [entry for entry in tree if type(entry) in _LISTS] or [tree]
    elif not isinstance(tree, Tensor):
        for inner, child in children(tree, path)[0]:
            if child is not tree:
                yield from _lists(child, inner)


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _first_tensor(tree: Any) -> Tensor | None:
    if isinstance(tree, Tensor):
        return tree
    try:
        pairs, _ = children(tree, "")
    except TypeError:
        return None
    return next((t for _, child in pairs if child is not tree and (t := _first_tensor(child)) is not None), None)


def _at(tree: Any, path: str, wanted: str) -> Any:
    """Return the part of a container at a path."""
    if path == wanted:
        return tree
    return next(_at(child, inner, wanted) for inner, child in children(tree, path)[0] if wanted.startswith(inner))


_FIX = "Expand it to one entry a sample, or hand over what all samples share by another way than the batch"
_FIX_OF_REPRESENTATION = (
    "Give it the samples in dimension 0: two views as (samples, 2, ...), tokens by unflatten(0, (samples, -1))"
)


def _mismatch(path: str, value: Any, samples: int | None, like: str = "", fix: str = _FIX) -> ValueError:
    as_there = f", as {like} has" if like and like != path else ""
    expected = "the samples" if samples is None else f"{samples} samples"
    shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{len(value)} entries"
    return ValueError(f"{path}: to be cut, expected {expected} in dimension 0{as_there}; found {shape}. {fix}")
