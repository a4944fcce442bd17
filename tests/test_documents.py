"""YAML documents: strict, typed, all faults at once."""

from __future__ import annotations

import msgspec
import pytest

from kinfold.documents import decode_document
from kinfold.errors import ConfigError


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 1
    rate: float = 0.0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner = msgspec.field(default_factory=Inner)
    many: dict[str, Inner] = {}


def decode(text: str) -> Outer:
    return decode_document(text, Outer, ConfigError, place="spec.yaml")


def test_numbers_are_as_people_write_them() -> None:
    assert decode("inner: {rate: 1e-6}").inner.rate == 1e-6
    assert decode("inner: {rate: -2.5E+3}").inner.rate == -2500.0


def test_an_empty_document_has_the_defaults() -> None:
    assert decode("") == Outer()


def test_all_unknown_keys_come_at_once_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        decode("iner: {}\ninner: {sise: 2}\nmany: {a: {size: 3, zzz: 1}}")
    assert error.value.faults == (
        "`iner` is not known; did you mean `inner`?",
        "`inner.sise` is not known; did you mean `size`?",
        "`many.a.zzz` is not known; known here: size, rate",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inner: {size: 1, size: 2}", "'size' stands twice"),
        ("inner: {size: big}", r"Expected `int`, got `str` - at `\$.inner.size`"),
        ("inner: [", "not valid YAML"),
        ("- 1", "Expected `object`, got `array`"),
    ],
)
def test_faults_say_where(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decode(text)
