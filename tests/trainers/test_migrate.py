"""docs/migrate.md: BERT's own loss and gradient, its memory, and the Trainer's checkpoints of a class that is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_accum import Split
from mtl_accum.editions import Schedule
from mtl_accum.memory import TensorMeter
from mtl_accum.verify._difference import gradient_difference
from tests.trainers.pages import DOCS, without

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

PAGE = (DOCS / "migrate.md").read_text(encoding="utf-8")
LOOP, KEPT_CLASS, OWN_FORWARD = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
*DIFFS, OWN_DIFF = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)


def execute(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    torch.manual_seed(0)
    exec(compile(code, "<docs/migrate.md>", "exec"), names)
    return names


def gradients(model: Any, loss: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(3)  # dropout is on
    value = loss()
    value.backward()
    return value.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_the_loop_changes_in_at_most_six_lines() -> None:
    (loop,) = [diff for diff in DIFFS if "backward" in diff]
    assert len(re.findall(r"^[+-]", loop, re.MULTILINE)) <= 6


def test_the_page_trains_as_the_original() -> None:
    ours, plain = execute(LOOP), execute(without(LOOP, DIFFS))
    assert "edition" not in plain
    for name, value in plain["model"].state_dict().items():
        torch.testing.assert_close(ours["model"].state_dict()[name], value, rtol=0, atol=1e-4)


@pytest.mark.parametrize("edition", [Split(), Split(head_chunks=4)], ids=["whole", "chunks"])
def test_the_original_loss_and_gradient(edition: Schedule) -> None:
    names = execute(LOOP)
    model, batch = names["model"].double(), torch.utils.data.default_collate(names["rows"][:7])
    loss, expected = gradients(model, lambda: model(**batch).loss)
    total, result = gradients(model, lambda: edition.loss(names["trunk"], names["tasks"], batch)[0])
    torch.testing.assert_close(total, loss, rtol=1e-12, atol=1e-12)
    assert gradient_difference(result, expected) <= 1e-12


def test_half_of_the_memory_in_chunks() -> None:
    names = execute(LOOP)
    model, batch = names["model"], torch.utils.data.default_collate(names["rows"])

    def peak(loss: Any) -> int:
        model.zero_grad()
        with TensorMeter(torch.device("cpu"), parameters=list(model.parameters()), inputs=batch) as meter:
            loss().backward()
        result = meter.result()
        return result.peak_bytes - result.base_bytes

    original = peak(lambda: model(**batch).loss)
    chunks, whole = (
        peak(lambda edition=edition: edition.loss(names["trunk"], names["tasks"], batch)[0])
        for edition in (names["edition"], Split())
    )
    assert chunks < 0.5 * original
    assert whole > 0.9 * original, "the page says that one large head alone saves next to nothing"


def test_fold_in_your_own_forward() -> None:
    ours, plain = execute(OWN_FORWARD), execute(without(OWN_FORWARD, [OWN_DIFF]))
    for one, other in zip(ours["model"].parameters(), plain["model"].parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_the_trainer_with_the_class_kept() -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install mtl-accum[trainers]")
    rows = execute(LOOP)["rows"]
    kept = execute(KEPT_CLASS)

    class Original(transformers.BertForPreTraining):  # type: ignore[name-defined]
        accepts_loss_kwargs = False

    def train(kind: Any, folder: Path, **options: Any) -> Any:
        torch.manual_seed(1)
        arguments = transformers.TrainingArguments(
            folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=4, save_steps=2,
            report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        trainer = transformers.Trainer(kind(kept["config"]), arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train(**options)
        return trainer

    ours, plain = train(kept["Bert"], "ours"), train(Original, "plain")
    whole = {name: value.clone() for name, value in ours.model.state_dict().items()}
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(whole[name], value, rtol=0, atol=1e-4)
    assert ours.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-4)

    resumed = train(kept["Bert"], "ours", resume_from_checkpoint=str(Path("ours/checkpoint-2")))
    saved = transformers.BertForPreTraining.from_pretrained("ours/checkpoint-4").state_dict()
    for name, value in whole.items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
        assert torch.equal(saved[name], value), name
