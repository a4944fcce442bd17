"""Steps, against loops written by hand with torch alone."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from llama_peer import tiny_llama
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR
from toy import Kept, ToyModel, ToyUnit, collate, summed_loss, toy_model, toy_reader, toy_samples, toy_trainer

from kinfold.errors import TrainingError
from kinfold.parallel import pretended_gangs, shard_model
from kinfold.parallel.native import native_plan
from kinfold.training import SequenceBatch, Trainer


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def assert_same(model: nn.Module, other: nn.Module, *, rtol: float = 0, atol: float = 0) -> None:
    torch.testing.assert_close(weights(model), weights(other), rtol=rtol, atol=atol)


def by_hand(model: ToyModel, *, dtype: torch.dtype | None = None) -> tuple[list[float], list[float], list[float]]:
    """The losses, norms and rates of ten steps that a user of torch would write, with clipping and a schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = StepLR(optimizer, 3, 0.9)
    reader = toy_reader()
    batches = [*reader, *reader][:10]
    losses, norms, rates = [], [], []
    torch.manual_seed(2)
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss, num_targets = summed_loss(model, batch)
        (loss / num_targets).backward()
        norms.append(clip_grad_norm_(model.parameters(), 0.5).item())
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
        losses.append(loss.item() / num_targets)
    return losses, norms, rates


def test_steps_are_those_of_a_loop_by_hand_bit_for_bit() -> None:
    model, kept = toy_model(), Kept()
    result = toy_trainer(unit=ToyUnit(model), max_gradient_norm=0.5, recorders=[kept])()
    theirs = toy_model()
    losses, norms, rates = by_hand(theirs)
    assert kept.of("loss") == losses
    assert kept.of("gradient_norm") == norms
    assert kept.of("lr") == rates
    assert_same(model, theirs)
    assert max(norms) > 0.5  # it was clipped
    assert (result.step_nr, result.loss, result.stopped) == (10, losses[-1], False)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_computes_as_autocast_does_and_leaves_the_weights_in_float32() -> None:
    model, kept = toy_model(), Kept()
    seen = set()
    model.register_forward_hook(lambda _model, _inputs, logits: seen.add(logits.dtype))
    toy_trainer(unit=ToyUnit(model), max_gradient_norm=0.5, recorders=[kept], dtype=torch.bfloat16)()
    theirs = toy_model()
    losses, norms, _ = by_hand(theirs, dtype=torch.bfloat16)
    assert (kept.of("loss"), kept.of("gradient_norm")) == (losses, norms)
    assert_same(model, theirs)
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def without_dropout() -> ToyModel:
    model = toy_model(dtype=torch.float64)
    model.dropout = nn.Dropout(0.0)
    return model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_batches_of_unequal_numbers_of_targets_make_the_step_of_one_big_batch() -> None:
    samples = toy_samples(22)
    parts = [samples[:2], samples[2:7], samples[7:8], samples[8:20], samples[20:]]
    assert len({sum(len(sample) - 1 for sample in part) for part in parts}) == 5
    kept: list[Kept] = []
    models: list[ToyModel] = []
    for batches in ([collate(part) for part in parts], [collate(samples)]):
        model, told = without_dropout(), Kept()
        toy_trainer(
            unit=ToyUnit(model), optimizer=sgd(model), lr_scheduler=None, data_reader=batches, max_num_steps=5,
            gradient_accumulation=len(batches), max_gradient_norm=0.3, recorders=[told],
        )()  # fmt: skip
        models.append(model)
        kept.append(told)
    assert_same(*models, rtol=1e-12, atol=1e-14)
    for name in ("loss", "gradient_norm"):
        torch.testing.assert_close(kept[0].of(name), kept[1].of(name), rtol=1e-12, atol=0)
    assert kept[0].of("tokens") == kept[1].of("tokens")


def test_means_count_the_same_for_each_batch() -> None:
    batches = [collate(toy_samples(22)[:2]), collate(toy_samples(22)[2:])]
    model, kept = without_dropout(), Kept()
    toy_trainer(
        unit=ToyUnit(model, mean=True), optimizer=sgd(model), lr_scheduler=None, data_reader=batches,
        max_num_steps=1, gradient_accumulation=2, recorders=[kept],
    )()  # fmt: skip
    theirs = without_dropout()
    optimizer = sgd(theirs)
    means = [loss / count for loss, count in (summed_loss(theirs, batch) for batch in batches)]
    torch.stack(means).mean().backward()
    optimizer.step()
    assert_same(model, theirs, rtol=1e-12, atol=1e-14)
    assert kept.of("loss") == pytest.approx([torch.stack(means).mean().item()], rel=1e-12)
    assert set(kept.rows[0][2]) == {"loss", "gradient_norm", "lr", "epoch"}


def test_an_epoch_may_end_with_a_step_of_fewer_batches() -> None:
    kept, seen = Kept(), []
    unit = ToyUnit(toy_model(), on_step=seen.append)
    result = toy_trainer(
        unit=unit, data_reader=toy_reader(22, 3), max_num_steps=None, max_num_data_epochs=2,
        gradient_accumulation=3, recorders=[kept],
    )()  # fmt: skip
    # 8 batches: 3, 3 and 2.
    assert seen == [1, 2, 3, 4, 5, 6]
    assert kept.of("epoch") == [1, 1, 1, 2, 2, 2]
    assert kept.of("tokens")[2::3] == [n * sum(len(sample) - 1 for sample in toy_samples(22)) for n in (1, 2)]
    assert (result.step_nr, result.epoch_nr) == (6, 2)


def test_values_are_means_over_all_targets_since_they_were_last_told() -> None:
    every, third = Kept(), Kept()
    toy_trainer(recorders=[every])()
    toy_trainer(recorders=[third], publish_metrics_every_n_steps=3)()
    assert [step for _, step, _ in third.rows] == [3, 6, 9, 10]
    tokens = [0.0, *every.of("tokens")]
    sums = [loss * (tokens[n + 1] - tokens[n]) for n, loss in enumerate(every.of("loss"))]
    for (_, step, values), before in zip(third.rows, (0, 3, 6, 9), strict=True):
        assert values["loss"] == pytest.approx(sum(sums[before:step]) / (tokens[step] - tokens[before]), rel=1e-12)
        assert values["tokens"] == tokens[step]
        assert values["tokens_per_second"] > 0
    assert (third.started, third.closed) == ((0, 10), True)


def test_the_same_seed_gives_the_same_losses_and_another_seed_others() -> None:
    kept = [Kept(), Kept(), Kept()]
    for told, seed in zip(kept, (3, 3, 4), strict=True):
        toy_trainer(recorders=[told], seed=seed)()
    assert kept[0].of("loss") == kept[1].of("loss") != kept[2].of("loss")


@pytest.mark.parametrize("options", [True, "eager", {"backend": "eager", "fullgraph": True}])
def test_a_compiled_model_is_the_same_model(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    compile_in_place = nn.Module.compile

    def compiled(self: nn.Module, **given: Any) -> None:
        calls.append(given)
        compile_in_place(self, **{"backend": "eager", **given})  # the default one needs a C++ compiler

    monkeypatch.setattr(nn.Module, "compile", compiled)
    told, plain = Kept(), Kept()
    model = toy_model()
    toy_trainer(unit=ToyUnit(model), recorders=[told], compile=options, max_num_steps=3)()
    toy_trainer(recorders=[plain], max_num_steps=3)()
    assert calls == [{} if options is True else {"backend": "eager"} if isinstance(options, str) else options]
    assert told.of("loss") == plain.of("loss")
    assert list(model.state_dict()) == list(toy_model().state_dict())


def test_a_compiler_is_given_the_graph_of_the_model() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    toy_trainer(compile={"backend": backend, "dynamic": True}, max_num_steps=3)()
    assert graphs


def poisoned(step: int, poison: Any, **options: Any) -> tuple[ToyModel, Trainer[SequenceBatch]]:
    """A trainer of which one step goes wrong."""
    model = toy_model()

    def on_step(step_nr: int) -> None:
        if step_nr == step:
            poison(model)

    return model, toy_trainer(unit=ToyUnit(model, on_step=on_step), **options)


def nan_logits(model: ToyModel) -> None:
    model.register_forward_hook(lambda _model, _inputs, logits: logits.mul(float("nan")))


def nan_gradient(model: ToyModel) -> None:
    weight: Tensor = model.inner.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))


def test_a_loss_that_is_not_finite_ends_the_run_before_its_step_is_taken() -> None:
    model, trainer = poisoned(4, nan_logits)
    with pytest.raises(TrainingError, match=r"Step 4: the loss is nan\."):
        trainer()
    three = toy_model()
    toy_trainer(unit=ToyUnit(three), max_num_steps=3)()
    assert_same(model, three)
    assert trainer.step_nr == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter() -> None:
    model, trainer = poisoned(2, nan_gradient, max_gradient_norm=1.0)
    with pytest.raises(TrainingError, match="Step 2: the gradient norm is nan") as caught:
        trainer()
    assert caught.value.faults == ("the gradient of inner.weight",)
    one = toy_model()
    toy_trainer(unit=ToyUnit(one), max_gradient_norm=1.0, max_num_steps=1)()
    assert_same(model, one)


def test_of_several_batches_the_one_whose_loss_is_not_finite_is_named() -> None:
    class Second(ToyUnit):
        calls = 0

        def __call__(self, batch: SequenceBatch, /) -> tuple[Tensor, int | None]:
            self.calls += 1
            loss, count = super().__call__(batch)
            return loss * (float("inf") if self.calls == 5 else 1), count

    with pytest.raises(TrainingError, match="Step 2: the loss of batch 2 of 3 is inf"):
        toy_trainer(unit=Second(toy_model()), gradient_accumulation=3)()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([(torch.ones(2), 3)], r"the loss is \(2,\): must be a scalar tensor"),
        ([(1.5, 3)], "the loss is 1.5: must be a scalar tensor"),
        ([(None, torch.tensor(3))], r"the number of targets is tensor\(3\): must be an int"),
        ([(None, -1)], "the number of targets is -1: must be an int"),
        ([(None, 2), (None, None)], r"the losses of some batches are sums, and of others means: \[2, None\]"),
        ([(None, 0), (None, 0)], "Step 1: there is nothing to predict: no batch has a target"),
    ],
)
def test_a_unit_that_gives_something_else_is_told_so(answers: list[tuple[Any, Any]], message: str) -> None:
    class Odd(ToyUnit):
        left: ClassVar = list(answers)

        def __call__(self, batch: SequenceBatch, /) -> tuple[Tensor, int | None]:
            loss, _ = super().__call__(batch)
            given, count = self.left.pop(0)
            return (loss if given is None else given), count

    with pytest.raises(TrainingError, match=message):
        toy_trainer(unit=Odd(toy_model()), gradient_accumulation=len(answers))()


def test_a_batch_without_targets_may_stand_beside_one_that_has_some() -> None:
    full = collate(toy_samples(4))
    empty = SequenceBatch(full.seqs, full.padding_mask, torch.zeros_like(full.seqs, dtype=torch.bool))
    models = [without_dropout(), without_dropout()]
    for model, batches in zip(models, ([empty, full], [full]), strict=True):
        toy_trainer(
            unit=ToyUnit(model), optimizer=sgd(model), lr_scheduler=None, data_reader=batches,
            gradient_accumulation=2, max_num_steps=3,
        )()  # fmt: skip
    assert_same(*models, rtol=1e-12, atol=1e-14)


def test_what_can_be_read_once_only_is_told_in_the_second_epoch() -> None:
    batches: Any = iter([collate(toy_samples(4))] * 3)
    with pytest.raises(TrainingError, match="data_reader gave no batch in epoch 2"):
        toy_trainer(data_reader=batches)()
    once: Any = iter([collate(toy_samples(4))] * 3)
    assert toy_trainer(data_reader=once, max_num_data_epochs=1)().step_nr == 3


def test_a_trainer_runs_once() -> None:
    trainer = toy_trainer(max_num_steps=1)
    trainer()
    with pytest.raises(TrainingError, match="ran already"):
        trainer.run()


def test_every_fault_of_the_arguments_is_named_at_once(tmp_path: Any) -> None:
    model = toy_model()
    model.final.to(torch.bfloat16)
    other = toy_model()
    optimizer = torch.optim.SGD([model.inner.weight, other.inner.weight], lr=0.1)
    plateau: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    reader = toy_reader()
    with pytest.raises(TrainingError) as caught:
        Trainer(
            unit=ToyUnit(model), data_reader=reader, optimizer=optimizer, lr_scheduler=plateau,
            gradient_accumulation=0, max_gradient_norm=-1.0, dtype=torch.float16, validate_every_n_steps=5,
            valid_data_reader=reader, checkpoint_every_n_steps=-1, keep_last_n_checkpoints=2,
        )  # fmt: skip
    assert caught.value.faults == (
        "checkpoint_every_n_steps = -1: must be an int above 0, or None",
        "gradient_accumulation = 0: must be an int above 0",
        "max_gradient_norm = -1.0: must be a number above 0, or None",
        "max_num_steps and max_num_data_epochs are None: it would never end",
        "valid_unit and valid_data_reader go together: one is None",
        "valid_data_reader is data_reader: must be another, since a validation would move its place",
        "validate_every_n_steps = 5 needs valid_unit, which is None",
        "checkpoint_every_n_steps = -1 needs checkpoint_dir, which is None",
        "keep_last_n_checkpoints = 2 needs checkpoint_dir, which is None",
        "lr_scheduler is a ReduceLROnPlateau: must be one that goes by the step",
        "optimizer has 1 parameters that are not the model's",
        "optimizer does not have embed.weight, inner.bias, final.weight, final.bias: give them to it, or freeze them "
        "(requires_grad_(False))",
        "dtype = torch.float16: must be torch.float32 or torch.bfloat16",
        "final.weight, final.bias are torch.bfloat16: weights that are trained must be torch.float32, whatever dtype "
        "is",
    )


def test_what_does_not_fit_the_ranks_is_refused() -> None:
    model = toy_model()
    optimizer = sgd(model)
    with pretended_gangs(tp=2, dp=2, ep=2) as gangs:
        reader = toy_reader(gang=gangs["tp"])
        spread = tiny_llama()
        shard_model(spread, native_plan(spread), gangs)
        with pytest.raises(TrainingError) as caught:
            toy_trainer(unit=ToyUnit(model), optimizer=optimizer, data_reader=toy_reader(), gangs=gangs)
        with pytest.raises(TrainingError) as without:
            toy_trainer(unit=ToyUnit(spread), data_reader=reader)
        with pytest.raises(TrainingError, match="batch_size = 1: must be 2 or more, a sample for each"):
            toy_reader(batch_size=1, gang=gangs["dp"])
    names = ", ".join(name for name, _ in model.named_parameters())
    assert caught.value.faults == (
        f"{names} are not spread over the gang dp: shard_data_parallel does that",
        "the gang ep has 2 ranks: must be 1; training is over dp, tp, pp",
        f"{names} are not spread over the gang tp: shard_model does that",
        "data_reader shares each batch among 1 ranks, and dp has 2: give it that gang",
    )
    assert without.value.faults == (
        "the model is spread over ranks, and gangs is None",
        "data_reader shares each batch among 2 ranks, and dp has 1: give it that gang",
    )


def test_a_model_without_storage_or_without_anything_to_train_is_refused() -> None:
    with torch.device("meta"):
        model = ToyModel()
    with pytest.raises(TrainingError, match=r"the model has no storage for embed\.weight, inner\.weight"):
        toy_trainer(unit=ToyUnit(model))
    frozen = toy_model().requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter is trained"):
        toy_trainer(unit=ToyUnit(frozen))


def test_frozen_parameters_stay_as_they_are() -> None:
    model, before = toy_model(), toy_model()
    model.embed.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    toy_trainer(unit=ToyUnit(model), optimizer=torch.optim.AdamW(trained, lr=1e-2))()
    assert torch.equal(model.embed.weight, before.embed.weight)
    assert not torch.equal(model.final.weight, before.final.weight)
