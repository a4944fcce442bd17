"""The checks a generated config makes: every fault at once, each with its value and what would be right."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kinfold import create_model
from kinfold.errors import ConfigError
from kinfold.validation import checking
from kinfold_zoo.llama import LlamaConfig, create_llama_model


@dataclass
class Config:
    width: int = 8
    heads: int = 2
    rate: float = 0.5
    window: int | None = None


def check(config: Config) -> None:
    with checking(config) as checks:
        checks.positive("width", "heads", "rate")
        checks.positive_or_none("window")
        checks.divides("heads", "width")
        checks.even("width")


def test_what_fits() -> None:
    check(Config())
    check(Config(width=12, heads=3, rate=1, window=4))


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        (Config(width=0), ["width = 0: must be an int above 0"]),
        (Config(width=2.0), ["width = 2.0: must be an int above 0"]),  # pyright: ignore[reportArgumentType]
        (Config(width=True, heads=1), ["width = True: must be an int above 0", "width = True is odd: 0 or 2 would do"]),
        (Config(rate=0.0), ["rate = 0.0: must be a number above 0"]),
        (Config(rate=float("nan")), ["rate = nan: must be a number above 0"]),
        (Config(window=0), ["window = 0: must be an int above 0, or None"]),
        (
            Config(width=9, heads=2),
            ["heads = 2 does not divide width = 9: 1, 3, 9 would", "width = 9 is odd: 8 or 10 would do"],
        ),
    ],
)
def test_faults(config: Config, faults: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(config)
    assert list(error.value.faults) == faults


def test_a_generated_config_is_checked_before_a_model_is_made() -> None:
    with pytest.raises(ConfigError) as error:
        create_llama_model(LlamaConfig(num_heads=32, num_kv_heads=5, head_dim=127, vocab_size=-1))
    assert len(error.value.faults) == 3
    assert str(error.value).startswith("This LlamaConfig does not fit together:")


def test_create_model_names_what_there_is() -> None:
    assert sum(p.numel() for p in create_model("llama", "7b", device="meta").parameters()) == 6_738_415_616
    with pytest.raises(Exception, match="Did you mean '7b'"):
        create_model("llama", "7bb")
