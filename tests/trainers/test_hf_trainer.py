"""The Hugging Face Trainer's page, with the Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.pages import CONVOLUTIONS, furthest, needs, network_code, run, text_of, weights

pytestmark = needs("transformers", "accelerate")

SCALE = "scale=lambda: trainer.accelerator.scaler.get_scale()"
UNCLIPPED = {"max_grad_norm=0.5": "max_grad_norm=0.0"}  # with SGD no constant factor goes unnoticed
ARGUMENTS = 'output_dir="out",'
UNMASKED = network_code("hf_trainer").replace("nn.Dropout(0.1)", "nn.Identity()").replace('"sold"', '"labels"')


def changes(options: str = "", saved: str = "no", **more: str) -> dict[str, str]:
    options = f'use_cpu=True, disable_tqdm=True, save_strategy="{saved}", save_steps=2, logging_steps=1, {options}'
    return {ARGUMENTS: f"{ARGUMENTS} {options}", **more}


def test_the_page() -> None:
    assert furthest("hf_trainer", changes=changes()) == 0


@pytest.mark.parametrize("options", ["", "bf16=True,", "optim='sgd',"])
def test_equal_to_the_last_bit(options: str) -> None:
    assert furthest("hf_trainer", network=CONVOLUTIONS, changes=changes(options)) == 0


def test_fp16() -> None:
    """The Trainer leaves fp16 to Accelerate, which leaves it out on a CPU; this is what it does on a GPU."""
    scaler = 'trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu")'
    made = {"trainer.train()": f"{scaler}\ntrainer.train()"}
    assert SCALE in text_of("hf_trainer")
    options, ours = {**changes("fp16=True,"), **made}, {"Split())": f"Split(), {SCALE})"}
    assert furthest("hf_trainer", network=CONVOLUTIONS, changes=options, ours=ours) == 0
    with pytest.raises(RuntimeError, match="expected scale="):
        run("hf_trainer", plain=False, network=CONVOLUTIONS, changes=options)


def test_plain_steps() -> None:
    assert furthest("hf_trainer", network=CONVOLUTIONS, changes={**changes("optim='sgd',"), **UNCLIPPED}) == 0


def test_a_factor_that_rounds() -> None:
    three = {"gradient_accumulation_steps=2": "gradient_accumulation_steps=3"}
    assert furthest("hf_trainer", changes={**changes(), **three}) <= 1e-6


def test_a_key_named_labels_does_not_switch_the_division_off() -> None:
    small = {**changes("optim='sgd',"), **UNCLIPPED}
    large = {**small, "train_batch_size=8": "train_batch_size=16", "accumulation_steps=2": "accumulation_steps=1"}
    small, large = (weights(run("hf_trainer", plain=False, network=UNMASKED, changes=each)) for each in (small, large))  # type: ignore[assignment]
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=0, atol=1e-6)


def test_evaluation() -> None:
    logs = [run("hf_trainer", plain=plain, changes=changes())["trainer"].state.log_history for plain in (True, False)]
    (plain, ours) = ([entry[key] for entry in log for key in ("loss", "eval_loss") if key in entry] for log in logs)
    assert ours == plain
    assert len(ours) == 5
    assert min(ours) > 0


def test_predictions_are_the_tasks_outputs() -> None:
    names = run("hf_trainer", plain=False, changes=changes())
    losses, outputs = names["trainer"].predict(names["rows"][:10]).predictions
    assert losses.keys() == outputs.keys() == {"price", "sold"}
    alone = names["trainer"].predict(names["rows"][:10], ignore_keys=["losses"]).predictions
    assert {name: value.shape for name, value in alone.items()} == {"price": (10, 1), "sold": (10, 2)}
    assert (alone["sold"] == outputs["sold"]).all()


def test_resumed_equals_undisturbed() -> None:
    whole = weights(run("hf_trainer", plain=False, network=CONVOLUTIONS, changes=changes(saved="steps")))
    (checkpoint,) = Path("out").glob("checkpoint-2")
    again = {"trainer.train()": f"trainer.train(resume_from_checkpoint='{checkpoint}')"}
    names = run("hf_trainer", plain=False, network=CONVOLUTIONS, changes={**changes(), **again})
    for name, value in weights(names).items():
        assert torch.equal(value, whole[name]), name
    saved = load_file("out/checkpoint-4/model.safetensors")
    names["model"].load_state_dict(saved)  # the bare model: its own names, all of them
