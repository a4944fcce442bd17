"""Runs that are asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyUnit, metrics, toy_model, toy_trainer

from kinfold.training import newest_checkpoint


def at_step(step: int, action: Any) -> ToyUnit:
    return ToyUnit(toy_model(), on_step=lambda step_nr: action() if step_nr == step else None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    before = {known: signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)}
    result = toy_trainer(tmp_path, unit=at_step(4, lambda: os.kill(os.getpid(), number)))()
    assert (result.step_nr, result.stopped) == (4, True)
    assert newest_checkpoint(tmp_path) == tmp_path / "step_4"
    assert {known: signal.getsignal(known) for known in before} == before


def test_a_second_signal_does_what_it_did_before() -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            toy_trainer(unit=at_step(4, twice))()
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        toy_trainer(unit=at_step(2, lambda: 1 / 0))()
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_signals_are_left_alone_and_a_stop_can_be_requested() -> None:
    trainer: Any = None
    seen = []

    def stop() -> None:
        seen.append(signal.getsignal(signal.SIGINT))
        trainer.request_stop()

    trainer = toy_trainer(unit=at_step(3, stop))
    before, results = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: results.append(trainer()))
    thread.start()
    thread.join()
    assert (results[0].step_nr, results[0].stopped, seen) == (3, True, [before])


def test_a_stop_in_the_last_step_is_the_end() -> None:
    trainer: Any = None
    trainer = toy_trainer(unit=at_step(10, lambda: trainer.request_stop()))
    assert not trainer().stopped


def test_a_run_that_was_stopped_goes_on_to_what_an_undisturbed_one_comes_to(tmp_path: Path) -> None:
    trainer: Any = None
    options: dict[str, Any] = {"publish_metrics_every_n_steps": 3}
    trainer = toy_trainer(tmp_path / "stopped", unit=at_step(5, lambda: trainer.request_stop()), **options)
    assert trainer().stopped
    resumed, undisturbed = toy_model(seed=9), toy_model()
    assert not toy_trainer(tmp_path / "stopped", unit=ToyUnit(resumed), **options)().stopped
    toy_trainer(tmp_path / "undisturbed", unit=ToyUnit(undisturbed), **options)()
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "undisturbed")
    assert [row["step"] for row in metrics(tmp_path / "stopped")] == [3, 6, 9, 10]
    torch.testing.assert_close(resumed.state_dict(), undisturbed.state_dict(), rtol=0, atol=0)
