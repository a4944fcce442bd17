"""`scaffold plan`: the table, the strips, the page, and what it says of what does not divide or fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from kinfold.errors import ParallelError
from kinfold.parallel.estimate import KINDS, Blueprint, Estimator, Layout, RankMemory, Workload, estimate_memory
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.cli.plan_report import COLOURS, FREE, MARKS, MOST_STRIPS, WIDTH, Plan, show
from kinfold.scaffold.project import Project
from kinfold_zoo.llama import create_llama_model, llama_archs, shard_llama_model

SIZES = (
    "{model_dim: 64, num_layers: 3, num_heads: 4, num_kv_heads: 2, head_dim: 16, ffn_inner_dim: 96, "
    "ffn_inner_dim_to_multiple: 1, vocab_size: 256, max_seq_len: 32}"
)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the card of a tiny Llama."""
    folder = tmp_path / "config" / "kinfold" / "cards"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (folder / "tiny.yaml").write_text(f"name: tiny\nmodel_family: llama\nmodel_arch: 7b\nmodel_config: {SIZES}\n")
    return "tiny"


@pytest.fixture
def fake_plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """A plan of ranks that need given amounts: `fake_plan([(1, 2, 3, 4, 5), ...], device_memory=...)`."""
    created = Estimator(Blueprint(create_llama_model, llama_archs.get(), shard_llama_model), Workload(seq_len=8))

    def make(amounts: list[tuple[int, ...]], device_memory: int | None = None) -> Plan:
        memories = [RankMemory(rank, rank, *amount) for rank, amount in enumerate(amounts)]
        monkeypatch.setattr(created, "ranks", lambda layout: memories)
        return Plan("llama 7b", created, Layout(pp=len(amounts)), device_memory, None)

    return make


def plan(*arguments: str | Path) -> Result:
    return CliRunner().invoke(scaffold, ["plan", *map(str, arguments)])


def printed(*arguments: str | Path, status: int = 0) -> str:
    result = plan(*arguments)
    assert result.exit_code == status, result.output
    return result.stdout


def test_ranks_that_need_the_same_are_one_row_and_one_strip(card: str) -> None:
    own = (125_376 - 7 * 64) // 8 + 7 * 64 // 4  # seven norms are not divided by tp
    columns = {"parameters": own * 4, "gradients": own * 4, "optimizer": own * 8}
    text = printed(card, "--tp", "2", "--fsdp", "4")
    facts, table, strips, verdict = text.split("\n\n")
    assert facts == (
        "llama tiny: 125,376 parameters\n"
        "tp=2 fsdp=4 pp=1: 8 ranks\n"
        "1 sequence of 32 tokens, bfloat16, training by adamw"
    )
    head, row = table.splitlines()
    assert head.split() == ["ranks", "stage", *KINDS, "total"]
    assert row.split()[:2] == ["0-7", "0"]
    for kind, size in columns.items():
        end = head.index(kind) + len(kind)
        assert row[:end].endswith(f"  {size / 1000:.1f} KB")
    assert len(strips.splitlines()) == 2
    assert verdict == f"The fullest rank needs {row[-8:]}.\n"


def test_json_is_the_estimate(card: str) -> None:
    found = json.loads(printed(card, "--tp", "2", "--pp", "2", "--batch-size", "2", "--optimizer", "sgd", "--json"))
    config = llama_archs.get("7b")
    config.model_dim, config.num_layers, config.num_heads, config.num_kv_heads = 64, 3, 4, 2
    config.head_dim, config.ffn_inner_dim, config.ffn_inner_dim_to_multiple = 16, 96, 1
    config.vocab_size, config.max_seq_len = 256, 32
    expected = estimate_memory(create_llama_model, config, tp=2, pp=2, batch_size=2, optimizer="sgd")
    assert [tuple(rank[kind] for kind in (*KINDS, "total")) for rank in found["ranks"]] == [
        tuple(getattr(memory, kind) for kind in (*KINDS, "total")) for memory in expected
    ]
    assert [rank["stage"] for rank in found["ranks"]] == [0, 0, 1, 1]
    assert found["layout"] == {"ranks": 4, "tp": 2, "fsdp": 1, "pp": 2}
    assert found["work"]["dtype"] == "bfloat16"
    assert (found["device_memory"], found["fits"], found["search"]) == (None, None, None)


def test_without_sizes_the_smallest_layout_is_looked_for(card: str) -> None:
    text = printed(card, "--device-memory", "1MB")
    found = json.loads(printed(card, "--device-memory", "1MB", "--json"))
    assert text.startswith("The smallest layouts that fit:\n  ranks  tp  fsdp  pp  fullest rank\n")
    best = found["search"]["fitting"][0]
    assert found["layout"] == {key: best[key] for key in ("ranks", "tp", "fsdp", "pp")}
    assert best["total"] == max(rank["total"] for rank in found["ranks"]) <= found["device_memory"] == 1_000_000
    assert found["fits"] is True
    assert "  - pp = 4: it has 3 layers, less than one for each stage\n" in text
    assert "tp = 8: decoder.layers.{layer}.self_attn: 4 query heads cannot be divided among 8 ranks" in text


def test_what_does_not_fit_is_said_and_is_the_exit_status(card: str) -> None:
    assert "too much.\n" in printed(card, "--tp", "2", "--device-memory", "500KB", status=1)
    assert "are left.\n" in printed(card, "--tp", "2", "--device-memory", "80GB")


def test_what_does_not_divide_is_an_error_that_names_everything(card: str) -> None:
    error = plan(card, "--tp", "3", "--pp", "5").exception
    assert isinstance(error, ParallelError)
    assert "4 query heads cannot be divided among 3 ranks" in str(error)
    assert "pp = 5: it has 3 layers" in str(error)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["llama", "--arch", "9b"], "There is no arch '9b'."),
        (["lama"], "'lama' is neither the name of a card nor a path."),
        (["tiny", "--arch", "7b"], "the card tiny says which arch it is of"),
        (["tiny", "--device-memory", "much"], "'much' is no size, such as 80GB or 80GiB"),
        (["tiny", "--tp", "0"], "0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_meant_is_said(card: str, arguments: list[str], said: str) -> None:
    result = plan(*arguments)
    assert result.exit_code != 0
    assert said in re.sub(r"\s+", " ", f"{result.output} {result.exception}")


def test_a_family_of_the_project_goes_by_its_name_and_by_its_folder(project: Project) -> None:
    made = CliRunner().invoke(scaffold, ["new-family", "mine"])
    assert made.exit_code == 0, made.output
    by_name = printed("mine", "--tp", "2", "--json")
    assert printed(project.package_path / "mine", "--tp", "2", "--json") == by_name
    assert json.loads(by_name)["model"].startswith("mine ")


def test_strips_are_to_scale(fake_plan: Callable[..., Plan]) -> None:
    *_, strips, _ = str(fake_plan([(10, 10, 20, 5, 15), (5, 5, 10, 0, 0)], device_memory=120)).split("\n\n")
    first, second, legend = strips.splitlines()
    assert first == f"  0  {'█' * 5}{'▓' * 5}{'▒' * 10}{'▚' * 2}{'░' * 8}{FREE * 30}|"
    assert second == f"  1  {'█' * 2}{'▓' * 3}{'▒' * 5}{FREE * 50}|"
    assert legend.split() == [*(word for kind in KINDS for word in (MARKS[kind], kind)), FREE, "free"]


def test_a_strip_that_does_not_fit_goes_beyond_the_device(fake_plan: Callable[..., Plan]) -> None:
    shown = str(fake_plan([(50, 50, 0, 0, 100)], device_memory=100))
    assert f"{'█' * 15}{'▓' * 15}|{'░' * 30}\n" in shown
    assert shown.endswith("The fullest rank needs 200 B of 100 B: 100 B too much.")


def test_of_many_different_ranks_the_fullest_are_shown(fake_plan: Callable[..., Plan]) -> None:
    made = fake_plan([(n, 0, 0, 0, 0) for n in range(1, 41)])
    assert [one.memory.rank for one in made.shown] == list(range(40 - MOST_STRIPS, 40))
    assert "24 ranks that need less are not shown." in str(made)


def test_numbers_of_ranks_are_short(fake_plan: Callable[..., Plan]) -> None:
    made = fake_plan([(1, 0, 0, 0, 0)] * 9)
    object.__setattr__(made, "ranks", [RankMemory(n, 0, 1 + n % 2, 0, 0, 0, 0) for n in range(9)])
    assert [one.label for one in made.alike] == ["0, 2, 4, ...", "1, 3, 5, ..."]


def test_colours_are_for_terminals(fake_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    made = fake_plan([(10, 10, 20, 5, 15)], device_memory=120)
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, coloured in ((Terminal(), True), (StringIO(), False)):
        monkeypatch.setattr("sys.stdout", stream)
        show(made)
        text = stream.getvalue()
        assert ("\x1b[" in text) is coloured
        assert re.sub(r"\x1b\[[\d;]*m", "", text) == f"{made}\n"


def test_the_page_has_the_strips_and_refers_to_nothing(card: str, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    text = printed(card, "--device-memory", "1MB", "--html", page)
    html = page.read_text()
    assert not re.search(r"https?:|src=|href=|@import|url\(", html)
    for line in text.splitlines():
        assert all(cell in html for cell in line.split() if cell.isdigit())
    svg = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + len("</svg>")])
    found = json.loads(printed(card, "--device-memory", "1MB", "--json"))
    bars = list(svg.iter("rect"))
    device = next(svg.iter("line"))
    end = max(float(bar.get("x", 0)) + float(bar.get("width", 0)) for bar in bars)
    start = min(float(bar.get("x", 0)) for bar in bars)
    share = (end - start) / (float(device.get("x1", 0)) - start)
    assert share == pytest.approx(max(rank["total"] for rank in found["ranks"]) / 1_000_000, abs=0.01)
    assert {bar.get("fill") for bar in bars} <= set(COLOURS.values())
    assert {(bar.findtext("title") or "").partition(":")[0] for bar in bars} <= set(KINDS)


def test_names_are_escaped(fake_plan: Callable[..., Plan]) -> None:
    from kinfold.scaffold.cli.plan_page import render_page

    made = fake_plan([(1, 1, 1, 1, 1)])
    object.__setattr__(made, "title", "<script>")
    assert "<script>" not in render_page(made)


def test_a_strip_is_as_long_as_its_width(fake_plan: Callable[..., Plan]) -> None:
    *_, (_, _, end) = fake_plan([(3, 3, 3, 3, 3)]).parts(RankMemory(0, 0, 3, 3, 3, 3, 3), WIDTH)
    assert end == WIDTH
