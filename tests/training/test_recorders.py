"""Values that are kept and shown."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from toy import ToyUnit, toy_model, toy_reader, toy_trainer

from kinfold.errors import TrainingError
from kinfold.training import JsonLinesRecorder, ProgressLine, TensorBoardRecorder


def write(path: Path, start: int, *steps: int) -> None:
    recorder = JsonLinesRecorder(path)
    recorder.start(start, None)
    for step in steps:
        recorder.record("train", step, {"loss": step / 2})
    recorder.close()


def test_each_value_is_in_a_json_object_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.start(0, 10)
    recorder.record("train", 1, {"loss": 0.1, "epoch": 1})
    recorder.record("valid", 1, {"loss": 0.2})
    # In the file although it is still open.
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"kind": "train", "step": 1, "loss": 0.1, "epoch": 1},
        {"kind": "valid", "step": 1, "loss": 0.2},
    ]
    recorder.close()


def test_what_lies_beyond_the_step_a_run_goes_on_from_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 1, 2, 3, 4)
    write(path, 2, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    path.write_text(path.read_text() + '{"kind": "tr')  # killed while it wrote
    write(path, 3, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    write(path, 4, 4, 5)  # told before it was killed, but after the checkpoint was written
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]
    write(path, 0, 1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", '{"name": 1}\n', "[1]\n", '{"kind": "train", "step": null}\n'])
def test_a_file_that_something_else_wrote_is_not_cut(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"mine\.txt, line 1: not written by a run of training"):
        write(path, 0)
    assert path.read_text() == text


def test_tensorboard_reads_what_was_written_and_forgets_what_was_taken_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps, factor in ((0, (1, 2, 3), 1.0), (1, (2, 3, 4), 10.0)):
        recorder = TensorBoardRecorder(tmp_path / "board")
        recorder.start(start, None)
        for step in steps:
            recorder.record("train", step, {"loss": step * factor})
        recorder.record("valid", steps[-1], {"loss": 7.0})
        recorder.close()
    read = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 1.0), (2, 20), (3, 30), (4, 40)]
    assert [(event.step, event.value) for event in read.Scalars("valid/loss")] == [(4, 7.0)]


def test_tensorboard_that_is_missing_is_named_with_what_brings_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r'pip install "kinfold\[tensorboard\]"'):
        TensorBoardRecorder("anywhere")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


VALUES = {"loss": 2.5, "gradient_norm": 0.25, "lr": 0.001, "epoch": 2, "tokens": 1234, "tokens_per_second": 99.6}


def test_on_a_terminal_one_line_is_written_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("kinfold.training.progress.monotonic", lambda: now)
    stream = Terminal()
    line = ProgressLine(stream)
    line.start(0, 100)
    line.record("train", 1, VALUES)
    now += 0.01
    line.record("train", 2, VALUES)  # too soon to be read
    now += 1
    line.record("train", 3, {"loss": 1.0})
    line.close()
    first = "step 1/100 | epoch 2 | loss 2.5000 | norm 0.25 | lr 0.001 | 1,234 tokens | 100 tokens/s"
    last = "step 3/100 | loss 1.0000"
    assert stream.getvalue() == f"{first}\r{last.ljust(len(first))}\r{last}\n"


def test_elsewhere_a_line_is_printed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("kinfold.training.progress.monotonic", lambda: now)
    stream = io.StringIO()
    line = ProgressLine(stream, seconds=30)
    line.start(0, None)
    for step in range(1, 8):
        line.record("train", step, {"loss": 1.0})
        now += 10
    line.record("valid", 7, {"loss": 3.0})
    line.record("train", 8, {"loss": 1.0})
    line.close()
    lines = ["step 1", "step 4", "step 7", "validation after step 7", "step 8"]
    assert [text.split(" |")[0] for text in stream.getvalue().splitlines()] == lines


def test_a_run_shows_its_steps_and_its_last_line_ends() -> None:
    stream = Terminal()
    unit = ToyUnit(toy_model())
    progress = ProgressLine(stream)
    toy_trainer(unit=unit, valid_unit=unit, valid_data_reader=toy_reader(), max_num_steps=3, progress=progress)()
    assert stream.getvalue().startswith("step 1/3 | epoch 1 | loss ")
    assert stream.getvalue().splitlines()[-1].startswith("validation after step 3/3 | loss ")
    assert stream.getvalue().endswith("\n")
