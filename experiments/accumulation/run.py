"""Classic gradient accumulation on one task: a batch of 512 in one piece, as 8 micro-batches, and as 8 loader batches.

python -m experiments.accumulation.run      # from the repository's root; writes README.md and curves.png beside this
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from experiments.study import known
from mtl_accum import Accumulated, MultiTaskModel, SummedLoss, Task, predict
from mtl_accum.data import Digits
from mtl_accum.models import ConvClassifier, ConvTrunk
from mtl_accum.training.loop import TrainConfig, Training

HERE, CPU, EPOCHS, BATCH, PIECES = Path(__file__).parent, torch.device("cpu"), 25, 512, 8


def network(norm: str) -> MultiTaskModel:
    torch.manual_seed(0)
    task = Task(ConvClassifier(16, 10, depth=1), nn.CrossEntropyLoss(), "digit")
    return MultiTaskModel(ConvTrunk(1, 16, depth=4, norm=norm), {"digit": task}, "image")


def train(norm: str, way: str) -> tuple[list[float], int, float]:
    """Train a network; return its losses by step, the predicted peak of a step, and the accuracy on the test data."""
    net = network(norm)
    edition = Accumulated(SummedLoss(), PIECES, allow_batch_statistics=True) if way == "micro-batches" else SummedLoss()
    windows = way == "loader batches"
    data = Digits(batch_size=BATCH // PIECES if windows else BATCH, noise=0.0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.004)
    batch = next(iter(data.train()))
    peak = predict(net.trunk, net.tasks, batch, optimizer=optimizer, edition=edition, device="cpu").peak_bytes
    loop = TrainConfig(epochs=EPOCHS, accumulate=PIECES if windows else 1)
    losses = Training(net, data.train(), [edition], optimizer, loop, device=CPU).run()["digit"]
    net.eval()
    with torch.no_grad():
        right = [(net(batch)["digit"].argmax(1) == batch["digit"]).float() for batch in data.test()]
    return losses, known(peak), float(torch.cat(right).mean())


WAYS = ["one piece", "micro-batches", "loader batches"]


def main() -> None:
    """Train six networks and write the report."""
    torch.set_num_threads(2)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    rows = ["| normalisation | a batch of 512 | peak of a step | first loss | curves differ by | accuracy |"]
    rows += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    for axes, norm in zip(panels, ("group", "batch"), strict=True):
        reference: list[float] = []
        for way, dash in zip(WAYS, ("-", "--", ":"), strict=True):
            losses, peak, accuracy = train(norm, way)
            reference = reference or losses
            apart = max(abs(one - other) / abs(other) for one, other in zip(losses, reference, strict=True))
            rows.append(
                f"| {norm} | {way} | {peak / 2**20:.1f} MiB | {losses[0]:.6f} | {100 * apart:.2g} % | {accuracy:.3f} |"
            )
            axes.plot(losses, dash, label=way, linewidth=1.6)
        axes.set(title=f"{norm} normalisation", xlabel="step", ylabel="loss", yscale="log")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "curves.png", dpi=120)
    lines = [
        "# Gradient accumulation: the same step in an eighth of the activations",
        "",
        "Question: is a large batch in pieces the same step, and what does BatchNorm do to that?",
        "",
        f"`python -m experiments.accumulation.run`: one task (which digit), {EPOCHS} epochs, the same weights and data",
        f"order in every run; torch {torch.__version__}, {platform.machine()}, CPU. Micro-batches are",
        f"`Accumulated(SummedLoss(), {PIECES})` inside of a batch; loader batches are `accumulate={PIECES}` batches of",
        f"{BATCH // PIECES}; the last window of an epoch is shorter.",
        "",
        *rows,
        "",
        "![losses of all six runs](curves.png)",
        "",
        "With group normalisation the pieces of a batch are the batch: the curves differ by the rounding of float32,",
        "which grows along the training. With BatchNorm the pieces are normalised by statistics of 64 samples in place",
        "of 512: another network function, from the first step on, which no weighting of losses mends. `Accumulated`",
        "refuses it unless `allow_batch_statistics=True`, and `to_group_norm` is the way out; loader batches cannot be",
        "refused, they never were one batch.",
        "",
    ]
    (HERE / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
