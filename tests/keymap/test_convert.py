"""Converting a whole state dict in memory."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_maps import maps_with_tensors
from torch import Tensor

from kinfold import CheckpointConverter, KeyMap, convert_model_state_dict
from kinfold.checkpoint.manifest import ITEMSIZES
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap import Rule, permute_rotary, rename, split, stack, tie, transpose
from kinfold.keymap.regex_table import RegexTable

STATE = {"model.layers.0.w": torch.zeros(2), "model.layers.1.w": torch.ones(2), "other": torch.zeros(1)}


@pytest.fixture(autouse=True)
def _state_stays_as_it_was():
    before = {name: tensor.clone() for name, tensor in STATE.items()}
    yield
    assert list(before) == list(STATE)
    assert all(torch.equal(STATE[name], tensor) for name, tensor in before.items())


def test_by_rules() -> None:
    key_map = KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w"), rename("other", "b"))
    converted = convert_model_state_dict(STATE, key_map)
    assert list(converted) == ["decoder.0.w", "decoder.1.w", "b"]
    assert torch.equal(converted["decoder.1.w"], torch.ones(2))


def test_by_rules_with_sizes_of_a_config() -> None:
    state = {"a": torch.arange(8)}
    converted = convert_model_state_dict(state, KeyMap(permute_rotary("a", "b", heads="n")), SimpleNamespace(n=2))
    assert converted["b"].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert state["a"].tolist() == list(range(8))


def test_rules_have_to_explain_all() -> None:
    with pytest.raises(CertificateError, match="other"):
        convert_model_state_dict(STATE, KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w")))


def test_all_that_rules_do_not_explain_comes_at_once() -> None:
    state = {"h.0.qk": torch.zeros(5), "h.0.e.0": torch.zeros(2), "h.0.e.2": torch.zeros(2), "new": torch.zeros(1)}
    key_map = KeyMap(
        split("h.{n}.qk", into=("l.{n}.q", "l.{n}.k"), sizes=(2, 2)), stack("h.{n}.e.{e}", "l.{n}.e", over="e")
    )
    with pytest.raises(CertificateError) as error:
        convert_model_state_dict(state, key_map)
    assert error.value.faults == (
        "new (1,) is taken by no rule",
        "e 1 is missing between 0 and 2",
        "split(h.{n}.qk -> l.{n}.q, l.{n}.k) with {'n': 0}: (5,) has not 2 + 2 in dimension 0",
        "stack(h.{n}.e.{e} -> l.{n}.e): h.0.e.1 is missing beside h.0.e.0",
        "l.0.e (2,) is filled by no tensor",
    )


def test_what_is_converted_already_is_refused() -> None:
    key_map = KeyMap(rename("model.layers.{layer}.w", "decoder.{layer}.w"), rename("other", "b"))
    with pytest.raises(CertificateError, match=r"decoder\.0\.w \(2,\) is taken by no rule"):
        convert_model_state_dict(convert_model_state_dict(STATE, key_map), key_map)


@pytest.mark.parametrize(
    ("rules", "first", "second"),
    [
        ([permute_rotary("q", "q", heads=1), rename("head", "final")], {"q": 4, "head": 1}, {"q": 4}),
        ([permute_rotary("a", "b", heads=1), permute_rotary("b", "c", heads=1)], {"a": 4}, {"b": 4}),
        ([rename("a", "b"), rename("b", "c")], {"a": 4}, {"b": 4}),
        ([rename("h.{n}.a", "h.{n}.b"), rename("h.{n}.b", "h.{n}.a")], {}, {"h.0.a": 1, "h.0.b": 1}),
        (
            [transpose("h.{a}.{b}", "h.{b}.{a}"), rename("c", "d")],
            {},
            {"h.0.0": (2, 2), "h.0.1": (2, 2), "h.1.0": (2, 2), "h.1.1": (2, 2)},
        ),
        ([transpose("a", "a"), rename("c", "d")], {"a": (3, 4), "c": 1}, {"a": (4, 3)}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_may_be_converted_already_is_refused_with_the_rules_that_would_be_applied_again(
    rules: list[Rule], first: dict, second: dict
) -> None:
    key_map = KeyMap(*rules)
    convert_model_state_dict({name: torch.zeros(shape) for name, shape in first.items()}, key_map)  # no doubt here
    with pytest.raises(KeyMapError, match="may be converted already") as error:
        convert_model_state_dict({name: torch.zeros(shape) for name, shape in second.items()}, key_map)
    assert set(error.value.faults) <= set(map(str, rules))
    assert error.value.faults


def test_names_that_stay_can_be_converted_as_often_as_one_likes() -> None:
    key_map = KeyMap(rename("model.layers.{n}.w", "model.layers.{n}.w"), rename("other", "other"), rename("x", "y"))
    once = convert_model_state_dict(STATE, key_map)
    assert list(once) == list(convert_model_state_dict(once, key_map)) == list(STATE)


@given(maps_with_tensors())
@settings(deadline=None)
def test_what_random_maps_have_converted_they_refuse(case: tuple[KeyMap, dict[str, Tensor]]) -> None:
    key_map, tensors = case
    once = convert_model_state_dict(tensors, key_map)
    with pytest.raises(KeyMapError):
        convert_model_state_dict(once, key_map)
    with pytest.raises(KeyMapError):
        convert_model_state_dict({**tensors, **once}, key_map)
    with pytest.raises(KeyMapError):
        CheckpointConverter(layout=key_map).load(once, None, layout="layout")


@pytest.mark.parametrize(
    "name", ["a b", "a%sb%", "a/b:c", "ä.√.权重", "a\nb", "a\\b", "'a\"", ".", "..a", "a.", "None"]
)
def test_names_with_odd_characters(name: str) -> None:
    key_map = KeyMap(rename(f"{name}.{{n}}.w", f"{{n}}{name}x"), rename(name, f"{name}%d"))
    state = {f"{name}.0.w": torch.zeros(1), name: torch.ones(1)}
    assert list(convert_model_state_dict(state, key_map)) == [f"0{name}x", f"{name}%d"]


@pytest.mark.parametrize("number", ["01", "9" * 19, "1" + "0" * 4300, "-1", "٣", "²", "1e3", ""])
def test_what_is_no_number_fills_no_hole(number: str) -> None:
    with pytest.raises(CertificateError, match="is taken by no rule"):
        convert_model_state_dict({f"h.{number}.w": torch.zeros(1)}, KeyMap(rename("h.{n}.w", "l.{n}.w")))


def test_the_largest_number_that_fills_a_hole() -> None:
    with pytest.raises(CertificateError, match="is missing between 0 and 999999999999999999"):
        convert_model_state_dict({f"h.{'9' * 18}.w": torch.zeros(1)}, KeyMap(rename("h.{n}.w", "l.{n}.w")))


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in ITEMSIZES])
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (4, 2)])
def test_every_dtype_and_tensors_without_values(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    rules = [rename("a.{n}", "x.{n}"), stack("e.{e}", "e", over="e"), tie("copy", to="a.0")]
    rules += (
        [permute_rotary("q", "q2", heads=2), split("s", into=("s1", "s2"), sizes=(2, 2))] if shape[:1] == (4,) else []
    )
    names = ["a.0", "e.0", "e.1", "copy", *(["q", "s"] if shape[:1] == (4,) else [])]
    state = {name: torch.ones(shape).to(dtype) for name in names}
    converted = convert_model_state_dict(state, KeyMap(*rules))
    assert {tensor.dtype for tensor in converted.values()} == {dtype}
    assert converted["e"].shape == (2, *shape)
    assert converted["x.0"].shape == shape


def test_one_map_serves_archs_of_several_sizes() -> None:
    key_map = KeyMap(split("qkv", into=("q", "k"), sizes=("q_dim", "kv_dim")), stack("e.{e}", "experts", over="e"))
    for q_dim, kv_dim, experts in ((6, 2, 3), (4, 4, 1)):
        state = {"qkv": torch.arange(8)} | {f"e.{e}": torch.full((2,), e) for e in range(experts)}
        converted = convert_model_state_dict(state, key_map, SimpleNamespace(q_dim=q_dim, kv_dim=kv_dim))
        assert converted["q"].tolist() == list(range(q_dim))
        assert converted["k"].tolist() == list(range(q_dim, 8))
        assert converted["experts"].tolist() == [[e, e] for e in range(experts)]


def fairseq2_name(name: str, table: dict[str, str]) -> str:
    """What fairseq2 0.4 calls it (models/utils/checkpoint.py, `convert_model_state_dict`)."""
    for pattern, replacement in table.items():
        if (new := re.sub(pattern, replacement, name)) != name:
            return new
    return name


@pytest.mark.parametrize(
    "table",
    [
        {r"^model\.layers\.([0-9]+)\.": r"decoder.\1.", r"^other$": "b", "no": "match"},
        {r"^model\.layers\.(?P<layer>\d+)\.w$": r"decoder.\g<layer>.x", r"(?<=the)r$": "rs"},
        {r"^model\.": "model.", r"(?<!self_)w": "self_w"},  # what changes nothing leaves a name to the next
        {r"(model)(\.layers)?(\.none)?": r"decoder\2\3", "(?i)^OTHER$": "b"},
        {r"l(?=ayers)|(?!m)o(?!t)del": "x", r"(t)(?:h)(?P<e>e)r": r"\g<e>\g<1>\t\\\x2e".replace(r"\x2e", ".")},
        {r"^(?:model|other)\.?": r"\g<0>\.\&", "x{e}": "never", r"x{\d{1,2}}|[{e}]": "never"},
        {r"\bw\b|^other\Z": "y", r"(?x) o  # a comment {e}": "z"},
        {r"model.layers.([01]).(w)": r"\2.\1", r"(?P<x>o)(?s:.)*": r"\g<x>"},
    ],
)
def test_a_table_means_what_it_means_to_fairseq2(table: dict[str, str]) -> None:
    state = {**STATE, "model{e}": torch.zeros(1), "x{1}": torch.zeros(1)}
    try:
        found = convert_model_state_dict(state, table)
    except KeyMapError as error:
        assert all("again" in fault for fault in error.faults)  # noqa: PT017
        found = None
    wanted = {fairseq2_name(name, table): name for name in state}
    again = {fairseq2_name(new, table) for new in wanted}
    assert (found is None) == (again != set(wanted))
    assert found is None or {new: state[name] for new, name in wanted.items()}.items() == found.items()


PIECES = st.sampled_from(
    [*"ab1.{}^$|?*+", "\\.", "(a|b)", "[ab{]", "(?:a.)", "{2}", "{e}", "{,1}", "\\d+", "(?=a)", "\\b", "(b)?"]
)
NAMES = ("a", "ab", "a{e}", "ba.1", "aab{2}", "b.a1", "1a.b2.a")


@given(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.sampled_from(["", "c", r"<\g<0>>"]))
@settings(max_examples=300, deadline=None)
def test_every_expression_means_what_it_means_to_re(pattern: str, replacement: str) -> None:
    try:
        wanted = [re.sub(pattern, replacement, name) for name in NAMES]
    except re.error:
        with pytest.raises(KeyMapError, match="is no regular expression"):
            RegexTable({pattern: replacement})
        return
    for name, new in zip(NAMES, wanted, strict=True):
        with contextlib.suppress(KeyMapError):  # the new name would be changed again
            assert RegexTable({pattern: replacement}).rename([name], timeout=60) == {new: name}


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(?:a|a)+\.w", r"(?:[^b]|a[a])+$", r"^(a|\w\w)*(?<=a)$"])
def test_an_expression_that_would_never_end_is_stopped(pattern: str) -> None:
    state = {"b": torch.zeros(1), "a" * 64 + "b": torch.zeros(1)}
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(state, {"^c": "d", pattern: "x"}, timeout=0.2)
    assert f"took longer than 0.2 seconds: it was trying {pattern!r} on {'a' * 64 + 'b'!r}" in str(error.value)


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a+)+$", "([a-z]+)*$", "(x+x+)+y"])
def test_the_usual_traps_end_or_are_stopped(pattern: str) -> None:
    state = {name: torch.zeros(1) for name in ("a" * 5000 + "1", "x" * 5000)}
    with contextlib.suppress(KeyMapError):
        convert_model_state_dict(state, {pattern: "z"}, timeout=0.2)


def test_an_expression_that_would_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(KeyMapError, match="repeats up to 100000000 times"):
        convert_model_state_dict(STATE, {"(((a{100}){100}){100}){1,100}": ""})


def test_ordinary_expressions_end_in_time_too() -> None:
    with pytest.raises(KeyMapError, match=r"it was trying '\^a\$' on 'model\.layers\.0\.w'"):
        convert_model_state_dict(STATE, {"^a$": "b"}, timeout=0)


def test_what_re_and_regex_read_differently_is_refused() -> None:
    with pytest.raises(KeyMapError, match=r"holds \[:alpha:\], which `re` does not know as a class"):
        convert_model_state_dict(STATE, {"[a[:alpha:]]": ""})


@pytest.mark.parametrize("number", [r"([0-9]+)", r"(\d{1,2})"])  # the second is run so that it can be stopped
def test_ninety_thousand_names_are_nothing(number: str) -> None:
    table = {rf"^model\.layers\.{number}\.part{n}\.": "x." for n in range(5)}
    table[rf"^model\.layers\.{number}\.experts\."] = r"decoder.layers.\1.ffn.experts."
    nothing = torch.zeros(0)
    state = {f"model.layers.{n}.experts.{e}.w{w}": nothing for n in range(60) for e in range(256) for w in range(6)}
    converted = convert_model_state_dict(state, table)
    assert list(converted) == [
        name.replace("model.layers", "decoder.layers").replace("experts", "ffn.experts") for name in state
    ]


def test_the_regex_package_is_imported_only_for_an_expression_that_could_take_long() -> None:
    code = (
        "import sys; from kinfold import convert_model_state_dict as convert;"
        "convert({'a': None}, {r'^a\\.([0-9]+)': r'b.\\1'}); print('regex' in sys.modules);"
        "convert({'a': None}, {'a|c': 'b'}); print('regex' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"w$": "weight"}, None),
        ({"layers": "decoder.layers"}, "'layers' would change what has been converted again: model.layers.0.w becomes "
         "model.decoder.layers.0.w, and that model.decoder.decoder.layers.0.w (1 more are changed twice)"),
        ({r"^model\.": "other.", "^other": "model"}, "'^other' would change what has been converted again"),
    ],
)  # fmt: skip
def test_a_table_either_leaves_what_it_has_converted_or_is_refused(table: dict[str, str], said: str | None) -> None:
    if said is None:
        converted = convert_model_state_dict(STATE, table)
        assert list(convert_model_state_dict(converted, table)) == list(converted)
        return
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(STATE, table)
    assert said in str(error.value)


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(KeyMapError, match=r"model\.layers\.0\.w and model\.layers\.1\.w both become model\.layers\.w"):
        convert_model_state_dict(STATE, {r"\.[0-9]+\.": "."})


def test_a_name_that_becomes_one_that_stays_is_refused() -> None:
    with pytest.raises(KeyMapError, match=r"model\.layers\.0\.w and other both become other"):
        convert_model_state_dict(STATE, {r".*0\.w": "other"})


def test_malformed_expressions_come_all_at_once() -> None:
    table: Any = {"(": "", "[": "", b"a": "", "a": 1, "a{" + "9" * 5000 + "}": "", "b{99999999999}": ""}
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(STATE, table)
    assert len(error.value.faults) == len(table)


@pytest.mark.parametrize("replacement", [r"\2", r"\g<layer>", "\\"])
def test_a_malformed_replacement_is_named(replacement: str) -> None:
    with pytest.raises(KeyMapError) as error:
        convert_model_state_dict(STATE, {"layers.([0-9])": replacement})
    (fault,) = error.value.faults
    assert fault.startswith(f"{replacement!r} cannot replace 'layers.([0-9])': ")
