"""The Accelerate page, with Accelerate."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.pages import CONVOLUTIONS, PLAIN_STEPS, furthest, needs, run, text_of, weights

pytestmark = needs("accelerate")

ACCELERATOR = "Accelerator(gradient_accumulation_steps=2"

SCALE = "scale=accelerator.scaler.get_scale"


def changes(options: str = "", steps: int = 2) -> dict[str, str]:
    return {ACCELERATOR: f"Accelerator(cpu=True, gradient_accumulation_steps={steps}{options}"}


def test_the_page() -> None:
    assert furthest("accelerate", changes=changes()) == 0


@pytest.mark.parametrize("options", ["", ", mixed_precision='bf16'"])
def test_equal_to_the_last_bit(options: str) -> None:
    assert furthest("accelerate", network=CONVOLUTIONS, changes=changes(options)) == 0


def test_plain_steps() -> None:
    assert furthest("accelerate", network=CONVOLUTIONS, changes={**changes(), **PLAIN_STEPS}) == 0


def test_fp16() -> None:
    """Accelerate leaves fp16 out on a CPU; this is what it does on a GPU, with the CPU's scaler."""
    scaler = 'accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")'
    made = {"\noptimizer = ": f"\n{scaler}\noptimizer = "}
    assert SCALE in text_of("accelerate")
    options = {**changes(", mixed_precision='fp16'"), **made}
    assert furthest("accelerate", network=CONVOLUTIONS, changes=options, ours={"Split())": f"Split(), {SCALE})"}) == 0
    with pytest.raises(RuntimeError, match="expected scale="):
        run("accelerate", plain=False, network=CONVOLUTIONS, changes=options)


def test_a_saved_module_loads_into_the_bare_model() -> None:
    names = run("accelerate", plain=False, changes=changes())
    names["accelerator"].save_model(names["module"], "saved")
    saved = load_file("saved/model.safetensors")
    trained = weights(names)
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], value) for name, value in trained.items())


def test_a_factor_that_rounds() -> None:
    assert furthest("accelerate", changes=changes(steps=3)) <= 1e-6
