"""The command line as a process: what it prints, where, and with what exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaForCausalLM

from kinfold.scaffold.cli.main import COMMANDS, scaffold
from kinfold.scaffold.project import Project

SCAFFOLD = Path(sys.executable).with_name("scaffold")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCAFFOLD, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_says(name: str) -> None:
    result = CliRunner().invoke(scaffold, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name] in result.output


def test_an_error_is_a_message_and_not_a_traceback(project: Project) -> None:
    done = run("new-family", "Bad-Name")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: 'Bad-Name' cannot be the name of a family:\n  - ")
    assert done.stderr.endswith("'bad_name' would do.\n")


def test_wrong_usage_has_another_status(project: Project) -> None:
    done = run("new-famly")
    assert done.returncode == 2
    assert "No such command 'new-famly'" in done.stderr


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("new-family", "x")
    assert done.returncode == 1
    assert "scaffold init NAME" in done.stderr


def test_the_schema_is_json() -> None:
    assert json.loads(run("schema").stdout)["$defs"]["Spec"]["properties"]["archs"]


def test_a_family_made_here_can_be_used_here(project: Project) -> None:
    assert run("new-family", "x").returncode == 0
    done = run("verify", "x")
    assert done.returncode == 1
    assert "names no checkpoint" in done.stderr


def test_generate_continues_the_prompt_with_the_tokenizer_of_the_checkpoint(project: Project, tmp_path: Path) -> None:
    from tiny import write_checkpoint

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "llama")
    assert run("new-family", "x", "--from", str(checkpoint)).returncode == 0
    done = run("generate", "x", "w7 w8")
    assert done.returncode == 1
    assert "has no tokenizer.json" in done.stderr
    backend = Tokenizer(WordLevel({f"w{number}": number for number in range(256)}, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    backend.save(str(checkpoint / "tokenizer.json"))
    done = run("generate", "x", "w7 w8", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    peer = LlamaForCausalLM.from_pretrained(checkpoint)
    expected = peer.generate(torch.tensor([[7, 8]]), max_new_tokens=4, do_sample=False)  # pyright: ignore
    assert done.stdout.split() == [f"w{number}" for number in expected[0].tolist()]
    sampled = [
        run("generate", "x", "w7", "--temperature", "2", "--top-k", "50", "--seed", "3").stdout for _ in range(2)
    ]
    assert sampled[0] == sampled[1]
    assert run("generate", "x", "w7", "--top-p", "3").returncode == 1
