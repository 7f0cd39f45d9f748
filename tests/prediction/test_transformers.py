"""Predictions for Hugging Face's models, whose attention masks depend on what can be seen of the batch."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtl_accum import Cached, Edition, PerTask, Split, SummedLoss, Task, predict
from tests.prediction.against_the_meter import assert_equal_to_the_byte, predicted_and_measured

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
masks = pytest.importorskip("transformers.masking_utils", reason="this transformers makes its masks elsewhere")

LENGTH = 61
SIZES = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "sdpa"}
GPT2 = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 64} | SIZES
LLAMA = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2} | SIZES
LLAMA |= {"num_key_value_heads": 2, "intermediate_size": 16}


def gpt2(**settings: Any) -> Any:
    return transformers.GPT2Model(transformers.GPT2Config(**(GPT2 | settings)))


def llama() -> Any:
    return transformers.LlamaModel(transformers.LlamaConfig(**LLAMA))


class Encoder(nn.Module):
    """A model's last hidden state."""

    def __init__(self, model: Any, *names: Any) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, batch: Any) -> Any:
        more = {name: batch[name] for name in self.names}
        return self.model(batch["input_ids"], use_cache=False, **more).last_hidden_state


def network(model: Any, *names: Any) -> tuple[Encoder, dict[str, Any], Any]:
    padding = torch.ones(5, LENGTH, dtype=torch.long)
    padding[1, 40:] = 0
    batch = {
        "input_ids": torch.randint(0, 50, (5, LENGTH)),
        "attention_mask": padding,
        "position_ids": torch.cat([torch.arange(30), torch.arange(LENGTH - 30)]).repeat(5, 1),
        "y": torch.randn(5, LENGTH, 2),
    }
    return Encoder(model, *names), {name: Task(nn.Linear(8, 2), F.mse_loss, "y") for name in "ab"}, batch


@pytest.mark.parametrize("edition", [SummedLoss(), PerTask(), Split(), Cached(chunk_size=2)], ids=repr)
@pytest.mark.parametrize(
    "model", [gpt2, llama, lambda: gpt2(attn_implementation="eager")], ids=["gpt2", "llama", "eager"]
)
def test_equals_the_meter_to_the_byte(model: Any, edition: Edition) -> None:
    predicted, measured = predicted_and_measured(*network(model()), edition)
    assert predicted.peak_bytes == measured.peak_bytes
    assert predicted.categories == measured.categories
    if not isinstance(edition, Cached):  # whose last chunk here is a single sample
        assert_equal_to_the_byte(predicted, measured)
        assert predicted.caveats == ()


@pytest.mark.parametrize("name", ["attention_mask", "position_ids"], ids=["padded", "packed"])
@pytest.mark.parametrize("model", [gpt2, llama])
def test_a_mask_that_the_batch_makes_necessary_is_predicted(model: Any, name: str) -> None:
    predicted, measured = predicted_and_measured(*network(model(), name))
    assert_equal_to_the_byte(predicted, measured)
    assert [caveat for caveat in predicted.caveats if caveat.startswith("an upper bound: transformers")]


def test_a_mask_that_full_sequences_need_not_have_is_an_upper_bound() -> None:
    trunk, tasks, batch = network(llama(), "attention_mask")
    batch["attention_mask"].fill_(1)
    predicted, measured = predicted_and_measured(trunk, tasks, batch)
    assert 0 < predicted.peak_bytes - measured.peak_bytes <= 5 * LENGTH**2 * 5  # a byte, and a float in the kernel
    assert predicted.caveats[0].startswith("an upper bound: transformers leaves out the attention mask")


def test_nothing_of_transformers_stays_replaced() -> None:
    before = (masks.find_packed_sequence_indices, masks.is_tracing)
    trunk, tasks, batch = network(gpt2())
    peaks = []

    def work() -> None:
        peaks.append(predict(trunk, tasks, batch, edition=Split(), device="cpu").peak_bytes)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peaks) == 3
    assert len(set(peaks)) == 1
    assert (masks.find_packed_sequence_indices, masks.is_tracing) == before


def test_a_mixture_of_experts() -> None:
    config = transformers.MixtralConfig(**LLAMA, num_local_experts=4, experts_implementation="grouped_mm")
    predicted, measured = predicted_and_measured(*network(transformers.MixtralModel(config)))
    assert_equal_to_the_byte(predicted, measured)
    assert predicted.caveats == ()
