"""Rows of the comparison with peers: a method in a situation, and a remark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from experiments.peers import by_hand, ours, with_accelerate, with_chunks, with_libmtl, with_lightning, with_torchjd
from experiments.peers.lines import lines_of
from mtl_accum import Accumulated, Cached, PerTask, Split, SummedLoss

__all__ = ["HAND", "OURS", "PEER", "ROWS", "Row", "reference_of"]

HAND, OURS, PEER = "by hand", "this project", "peer"


@dataclass(frozen=True)
class Row:
    """One method in one situation.

    Attributes:
        name: Name of the row.
        situation: Key of `SITUATIONS`.
        kind: Origin: by hand, this project, or a peer.
        train: User's code, a function of the network and the batches.
        options: Further arguments of `train`.
        package: Name of the package to import; None for torch alone and for this project.
        distribution: Name of that package on PyPI.
        needs_cuda: Reason for needing a GPU; None if it runs without one.
        remark: Remark for the reader.
    """

    name: str
    situation: str
    kind: str
    train: Callable[..., None]
    options: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    distribution: str = ""
    needs_cuda: str | None = None
    remark: str = ""

    def run(self, network: Any, batches: Iterable[Any]) -> None:
        """Train the network."""
        self.train(network, batches, **self.options)

    def missing(self, device: str) -> str | None:
        """Return the reason why the row cannot run on a device, in one line; None if it can."""
        if self.needs_cuda and not device.startswith("cuda"):
            return self.needs_cuda
        if self.package is not None and find_spec(self.package) is None:
            return f"`{self.distribution}` is not installed"
        return None

    def version(self) -> str | None:
        """Return the version of the package."""
        try:
            return version(self.distribution) if self.distribution else None
        except PackageNotFoundError:
            return None

    def lines(self) -> int:
        """Return the number of statements."""
        return lines_of(self.train)


def reference_of(row: Row) -> Row:
    """Return the first row of the same situation."""
    return next(other for other in ROWS if other.situation == row.situation)


def _peer(name: str, situation: str, train: Callable[..., None], package: str, distribution: str, **more: Any) -> Row:
    return Row(name, situation, PEER, train, package=package, distribution=distribution, **more)


_AGAIN = "runs the trunk once a task, each time with other dropout masks"
_PIECES = "other, equally valid dropout masks in every chunk"

ROWS = [
    Row("summed loop", "tasks", HAND, by_hand.summed),
    Row("loop per task", "tasks", HAND, by_hand.per_task, remark=_AGAIN),
    Row("cut by hand", "tasks", HAND, by_hand.cut),
    Row(
        *("heads under checkpoint", "tasks", HAND, by_hand.checkpointed_heads),
        remark="each head under `torch.utils.checkpoint`; runs every head twice, the second time in the backward",
    ),
    Row("SummedLoss", "tasks", OURS, ours.multi_task, {"edition": SummedLoss()}),
    Row(
        "PerTask",
        "tasks",
        OURS,
        ours.multi_task,
        {"edition": PerTask()},
        remark="runs the trunk once a task, with the same masks",
    ),
    Row("Split", "tasks", OURS, ours.multi_task, {"edition": Split()}),
    Row(
        *("Split().loss", "tasks", OURS, ours.split_loss),
        remark="for a trainer that runs the backward; holds one more copy of the heads' gradients until then",
    ),
    Row("cut in a loop", "tasks", OURS, ours.cut_in_a_loop),
    Row("Cached, 4 samples", "tasks", OURS, ours.multi_task, {"edition": Cached(4)}, remark=_PIECES),
    Row(
        *("Accumulated Split, 4", "tasks", OURS, ours.multi_task, {"edition": Accumulated(Split(), 4)}),
        remark=_PIECES,
    ),
    _peer(
        *("TorchJD", "tasks", with_torchjd.documented, "torchjd", "torchjd"),
        remark="`mtl_backward` and `Sum`, its documented form; made to aggregate conflicting gradients, not to add "
        "them: it keeps a gradient of the trunk for every task and sends all of them back in one batched pass",
    ),
    _peer(
        *("TorchJD, call a task", "tasks", with_torchjd.task_by_task, "torchjd", "torchjd"),
        remark="the leanest use found; the trunk's backward runs once a task",
    ),
    _peer(
        *("LibMTL EW", "tasks", with_libmtl.equal_weights, "LibMTL", "LibMTL"),
        options={"rep_grad": False},
        remark="the summed loop itself; neither the package nor its Trainer can be used as they are on PyPI "
        '(imports a module that torchvision dropped in 2022; "cuda:0" is written in): its subpackages are imported '
        "one by one",
    ),
    _peer(
        *("LibMTL EW, rep_grad", "tasks", with_libmtl.equal_weights, "LibMTL", "LibMTL"),
        options={"rep_grad": True},
        remark="**the trunk is never trained**: rep_grad cuts the graph, and EW does not send the gradient on; no "
        "error, no warning. The option is for weightings that use the gradients themselves (MGDA and others)",
    ),
    _peer(
        *("Accelerate, micro steps", "tasks", with_accelerate.micro_step_per_task, "accelerate", "accelerate"),
        remark=f"{_AGAIN}; `accelerator.backward` divides by the number of tasks, so the loss is multiplied by it",
    ),
    _peer("Lightning", "tasks", with_lightning.summed, "lightning", "lightning", remark="automatic optimization"),
    _peer(
        *("Lightning, manual", "tasks", with_lightning.per_task, "lightning", "lightning"),
        remark=f"manual optimization; {_AGAIN}",
    ),
    Row("loss in one piece", "contrastive", HAND, by_hand.whole),
    Row("Cached", "contrastive", OURS, ours.contrastive, remark=_PIECES),
    _peer(
        *("GradCache", "contrastive", with_chunks.gradcache_class, "gradcache", "gradcache"),
        remark=f"{_PIECES}; the class on PyPI imports itself by another name, two lines make up for it",
    ),
    _peer(
        *("sentence-transformers", "contrastive", with_chunks.sentence_transformers),
        *("sentence_transformers", "sentence-transformers"),
        remark=f"`CachedMultipleNegativesRankingLoss`; {_PIECES}; one encoder for both sides",
    ),
    Row("logits in one piece", "vocabulary", HAND, by_hand.logits),
    Row("chunked, 8", "vocabulary", OURS, ours.vocabulary_in_chunks),
    Row("Split, 8 head chunks", "vocabulary", OURS, ours.vocabulary, {"edition": Split(head_chunks=8)}),
    Row(
        *("Accumulated, 8", "vocabulary", OURS, ours.vocabulary, {"edition": Accumulated(SummedLoss(), 8)}),
        remark=_PIECES,
    ),
    Row(
        *("torch, 8 chunks", "vocabulary", PEER, with_chunks.torch_chunked),
        remark="`linear_cross_entropy`; by default (`options=None`) it is the loss in one piece",
    ),
    Row("torch, own chunks", "vocabulary", PEER, with_chunks.torch_automatic, remark="`LinearCrossEntropyOptions()`"),
    _peer(
        *("Liger", "vocabulary", with_chunks.liger, "liger_kernel", "liger-kernel"),
        needs_cuda="needs a GPU: its kernels are Triton's, which has no driver for the CPU",
        remark="fused linear cross-entropy",
    ),
]
