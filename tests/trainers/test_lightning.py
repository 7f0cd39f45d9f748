"""The Lightning page, with Lightning."""

from __future__ import annotations

import pytest
import torch

from tests.trainers.pages import CONVOLUTIONS, PLAIN_STEPS, furthest, needs, run, text_of

pytestmark = [
    needs("lightning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch's pytrees
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

TRAINER = "gradient_clip_val=0.5"
QUIET = 'enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator="cpu"'
# precision="16-mixed" is for GPUs; this is what it stands for, on the CPU.
FP16 = ', plugins=[L.pytorch.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]'
SCALE = "scale=lambda: self.trainer.precision_plugin.scaler.get_scale()"


def changes(options: str = "", **more: str) -> dict[str, str]:
    return {TRAINER: f"{TRAINER}, {QUIET}{options}", **more}


def test_the_page() -> None:
    assert furthest("lightning", changes=changes()) == 0


@pytest.mark.parametrize(
    "options",
    ["", ", precision='bf16-mixed'", ", gradient_clip_algorithm='value'", ", limit_train_batches=5"],
)
def test_equal_to_the_last_bit(options: str) -> None:
    assert furthest("lightning", network=CONVOLUTIONS, changes=changes(options)) == 0


def test_plain_steps() -> None:
    assert furthest("lightning", network=CONVOLUTIONS, changes={**changes(), **PLAIN_STEPS}) == 0


def test_a_factor_that_rounds() -> None:
    three = {"accumulate_grad_batches=2": "accumulate_grad_batches=3"}
    assert furthest("lightning", changes={**changes(), **three}) <= 1e-6


def test_fp16() -> None:
    ours = {"Split())": f"Split(), {SCALE})"}
    assert SCALE in text_of("lightning")
    assert furthest("lightning", network=CONVOLUTIONS, changes=changes(FP16), ours=ours) == 0


def test_fp16_without_the_scale_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"expected scale= .*scaler\.get_scale"):
        run("lightning", plain=False, network=CONVOLUTIONS, changes=changes(FP16))


def test_a_checkpoint_loads_into_the_bare_model() -> None:
    names = run("lightning", plain=False, changes=changes())
    names["trainer"].save_checkpoint("trained.ckpt")
    saved = torch.load("trained.ckpt", weights_only=True)["state_dict"]
    bare = {name.removeprefix("model."): value for name, value in saved.items()}
    names["model"].load_state_dict(bare)
    assert all(torch.equal(value, bare[name]) for name, value in names["model"].state_dict().items())


def test_val_loss() -> None:
    plain, ours = (run("lightning", plain=plain, changes=changes())["trainer"] for plain in (True, False))
    assert ours.callback_metrics["val_loss"] == plain.callback_metrics["val_loss"] > 0
