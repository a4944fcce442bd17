"""Validation between steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Kept, ToyUnit, metrics, summed_loss, toy_model, toy_reader, toy_trainer

from kinfold.errors import TrainingError
from kinfold.training import SequenceBatch


def test_validation_measures_the_mean_over_all_targets_without_dropout() -> None:
    model, kept = toy_model(), Kept()
    unit = ToyUnit(model)
    result = toy_trainer(
        unit=unit, valid_unit=unit, valid_data_reader=toy_reader(9, 4, shuffle=False), validate_every_n_steps=4,
        recorders=[kept],
    )()  # fmt: skip
    assert [step for kind, step, _ in kept.rows if kind == "valid"] == [4, 8, 10]
    model.eval()
    with torch.no_grad():
        pairs = [summed_loss(model, batch) for batch in toy_reader(9, 4, shuffle=False)]
    expected = sum(loss.item() for loss, _ in pairs) / sum(count for _, count in pairs)
    assert result.valid_loss == kept.of("loss", "valid")[-1] == expected


def test_training_goes_on_as_if_there_had_been_no_validation(tmp_path: Path) -> None:
    modes = []
    model = toy_model()
    unit = ToyUnit(model, on_step=lambda _step: modes.append(model.training))
    batches: Any = [*toy_reader()]
    data = torch.utils.data.DataLoader(batches, batch_size=None)  # draws random numbers
    valid: Any = {"valid_unit": ToyUnit(model), "valid_data_reader": data, "validate_every_n_steps": 2}
    toy_trainer(tmp_path / "with", unit=unit, **valid)()
    toy_trainer(tmp_path / "without")()
    trained = [row for row in metrics(tmp_path / "with") if row["kind"] == "train"]
    assert trained == metrics(tmp_path / "without")
    assert modes == [True] * 10


def test_each_validation_reads_the_same_and_keeps_nothing_for_gradients() -> None:
    class Watching(ToyUnit):
        def __call__(self, batch: SequenceBatch, /) -> Any:
            seen.append(batch.seqs.tolist())
            inferring.append(torch.is_inference_mode_enabled())
            return super().__call__(batch)

    seen: list[Any] = []
    inferring: list[bool] = []
    model = toy_model()
    toy_trainer(
        unit=ToyUnit(model), valid_unit=Watching(model), valid_data_reader=toy_reader(9, 3), validate_every_n_steps=5
    )()
    assert len(seen) == 6
    assert seen[:3] == seen[3:]
    assert all(inferring)


def test_a_validation_of_nothing_or_with_a_loss_that_is_not_finite_ends_the_run() -> None:
    class Poisoned(ToyUnit):
        def __call__(self, batch: SequenceBatch, /) -> Any:
            loss, count = super().__call__(batch)
            return loss * float("inf"), count

    unit = ToyUnit(toy_model())
    with pytest.raises(TrainingError, match="Validation after step 10: valid_data_reader gave no batch"):
        toy_trainer(unit=unit, valid_unit=unit, valid_data_reader=[])()
    with pytest.raises(TrainingError, match="Validation after step 10: the loss is inf"):
        toy_trainer(unit=unit, valid_unit=Poisoned(unit.model), valid_data_reader=toy_reader())()
