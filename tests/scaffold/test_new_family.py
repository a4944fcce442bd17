"""`scaffold new-family`: a complete family, written as a person would like to have written it, or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kinfold.errors import ConfigError, ProjectError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.new_family import new_family, render_family
from kinfold.scaffold.project import Project, find_project
from kinfold.scaffold.spec.schema import Spec, parse_spec

FILES = {
    "mylab/x/__init__.py",
    "mylab/x/archs.py",
    "mylab/x/factory.py",
    "mylab/x/loader.py",
    "mylab/x/model.py",
    "mylab/cards/x.yaml",
    "mylab/registry.py",
    "tests/test_x.py",
}

RICH = """
description: everything that a spec can switch on
attention: {qkv_bias: true, output_bias: true, qk_norm: true}
ffn: {kind: %s, activation: %s, bias: true}
key_maps:
  hf: {drop: {"model.layers.{layer}.self_attn.rotary_emb.inv_freq": recomputed}}
  gguf: {rotary_pairs: interleaved}
archs:
  small:
    model_dim: 64
    num_layers: 2
    num_heads: 4
    num_kv_heads: 2
    head_dim: 16
    ffn_inner_dim: 96
    vocab_size: 100
    sliding_window: 16
    rope_scaling: {kind: llama3, factor: 8.0, original_max_seq_len: 32}
  large:
    model_dim: 128
    tied_embeddings: true
    sliding_window: null
    rope_scaling: null
"""

SCALINGS = {
    "linear": "{kind: linear, factor: 2.0}",
    "dynamic": "{kind: dynamic, factor: 2.0, original_max_seq_len: 32}",
    "yarn": "{kind: yarn, factor: 4.0, original_max_seq_len: 32}",
    "longrope": (
        "{kind: longrope, original_max_seq_len: 32, short_factors: [1, 1, 1, 1, 1, 1, 1, 1], "
        "long_factors: [1, 2, 3, 4, 5, 6, 7, 8]}"
    ),
}


OTHER_KINDS = {
    "absolute": """
norm: {kind: layer, order: post}
position: {kind: learned}
embedding: {scaled: true}
archs:
  a: {model_dim: 64, num_heads: 4, num_layers: 2, vocab_size: 100, max_seq_len: 64, dropout_p: 0.1, pad_idx: 0,
      ffn_inner_dim: 90, ffn_inner_dim_multiplier: 1.5, ffn_inner_dim_to_multiple: 16}
""",
    "translator": """
model: encoder_decoder
attention: {qkv_bias: true}
norm: {order: post}
position: {kind: sinusoidal, start: 2}
archs:
  a: {model_dim: 64, num_encoder_layers: 2, num_decoder_layers: 1, num_encoder_heads: 4, num_decoder_heads: 2,
      ffn_inner_dim: 96, vocab_size: 100, max_seq_len: 64}
  b: {tied_embeddings: true, dropout_p: 0.1}
""",
}
"""What the default family is not."""


def run(*arguments: str, answers: str = "") -> Result:
    """Run `scaffold`; an exception goes through."""
    result = CliRunner().invoke(scaffold, list(arguments), input=answers)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def everything(root: Path) -> dict[str, bytes]:
    """All files of a project by path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_default_family_is_complete(project: Project) -> None:
    before = everything(project.root)
    result = run("new-family", "x", "--json")
    written = {name for name, data in everything(project.root).items() if before.get(name) != data}
    assert {name for name in written if not name.startswith(".kinfold")} == FILES
    assert {name.removeprefix(".kinfold/x/pristine/") for name in written if "pristine" in name} == {
        name for name in FILES if name.endswith(".py") and not name.endswith("registry.py")
    }
    assert set(json.loads(result.output)["files"]) == written
    assert project.families() == {"x": "mylab.x"}


def test_linters_types_and_tests_pass_on_what_is_written(project: Project) -> None:
    run("new-family", "x")
    Path("rich.yaml").write_text(RICH % ("plain", "gelu_tanh"))
    run("new-family", "rich", "--spec", "rich.yaml")
    for number, (kind, scaling) in enumerate(SCALINGS.items()):
        spec = f"archs: {{a: {{num_heads: 4, model_dim: 64, head_dim: 16, num_layers: 1, rope_scaling: {scaling}}}}}"
        Path("spec.yaml").write_text(spec + ("\nffn: {kind: gated, activation: relu}" if number else ""))
        run("new-family", kind, "--spec", "spec.yaml")
    for name, spec in OTHER_KINDS.items():
        Path("spec.yaml").write_text(spec)
        run("new-family", name, "--spec", "spec.yaml")
    for command in (
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["pyright", "--pythonpath", sys.executable],
        ["pytest", "-q", "-p", "no:cacheprovider"],
    ):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["gated", "plain"])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_every_feed_forward_is_certified(project: Project, kind: str, activation: str) -> None:
    spec = parse_spec(RICH % (kind, activation), place="here")
    assert set(new_family("x", project, spec).certificates) == {"hf", "gguf"}


def test_what_a_family_does_not_have_is_not_in_its_code(project: Project) -> None:
    run("new-family", "x")
    source = "".join(path.read_text() for path in Path("mylab/x").glob("*.py"))
    for absent in ("window", "tied", "Tied", "scaling", "Scaling", "q_norm", "bias=True", "permute"):
        assert absent not in source


def test_anybodys_words_stay_words(project: Project) -> None:
    words = '""" \\N{x} \\ \'quoted\'\nimport os; raise SystemExit(1)\n' + "long " * 99
    text = "description: %s\nkey_maps: {hf: {drop: {'a\"b.{layer}': %s}}}\narchs: {a: {}, b: {description: %s}}"
    Path("spec.yaml").write_text(text % ((json.dumps(words),) * 3))
    run("new-family", "x", "--spec", "spec.yaml")
    for path in Path("mylab/x").glob("*.py"):
        compile(path.read_text(), path.name, "exec", dont_inherit=True)
    done = subprocess.run([sys.executable, "-m", "ruff", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_archs_are_data(project: Project) -> None:
    Path("spec.yaml").write_text(
        "archs:\n  1b: {model_dim: 64, num_heads: 4, num_kv_heads: 2, num_layers: 2}\n"
        "  1.5b: {num_layers: 3, description: Deeper.}\n"
    )
    run("new-family", "x", "--spec", "spec.yaml")
    assert (
        Path("mylab/x/archs.py").read_text()
        == '''"""Published sizes of X."""

from __future__ import annotations

from kinfold import ConfigRegistry

from mylab.x.factory import XConfig

x_archs = ConfigRegistry[XConfig]()
x_arch = x_archs.decorator


@x_arch("1b")
def _1b() -> XConfig:
    """The defaults."""
    return XConfig()


@x_arch("1.5b")
def _1_5b() -> XConfig:
    """Deeper."""
    config = _1b()
    config.num_layers = 3
    return config
'''
    )


def test_the_same_input_gives_the_same_bytes(project: Project) -> None:
    spec = parse_spec(RICH % ("gated", "silu"), place="here")
    assert render_family("x", project, spec) == render_family("x", project, spec)


def test_a_dry_run_shows_all_and_writes_nothing(project: Project) -> None:
    before = everything(project.root)
    output = run("new-family", "x", "--dry-run").output
    assert everything(project.root) == before
    assert all(f"+++ b/{name}" in output for name in FILES)
    assert '+    "x": "mylab.x",' in output


def test_like_another_family(project: Project) -> None:
    Path("spec.yaml").write_text(RICH % ("gated", "silu"))
    run("new-family", "x", "--spec", "spec.yaml")
    project.activate()
    run("new-family", "y", "--like", "x")
    assert Path("mylab/y/model.py").read_text() == Path("mylab/x/model.py").read_text().replace("X", "Y")
    run("new-family", "z", "--like", "llama")
    assert '@z_arch("llama3_2_1b")' in Path("mylab/z/archs.py").read_text()
    with pytest.raises(ProjectError, match="Did you mean 'llama'"):
        run("new-family", "w", "--like", "lama")


def test_interactive_asks_for_sizes(project: Project) -> None:
    answers = ["64", "2", "4", "2", "16", "96", "100", "128", "1e-6", "10000", "y"]
    assert run("new-family", "x", "--interactive", answers="\n".join(answers)).exit_code == 0
    factory = Path("mylab/x/factory.py").read_text()
    assert "model_dim: int = 64" in factory
    assert "norm_eps: float = 1e-06" in factory
    assert "TiedProjection(embed)" in factory


@pytest.mark.parametrize("existing", ["mylab/x/notes.py", "mylab/x/model.py", "mylab/cards/x.yaml", "tests/test_x.py"])
def test_nothing_of_the_users_is_overwritten(project: Project, existing: str) -> None:
    path = Path(existing)
    path.parent.mkdir(exist_ok=True)
    path.write_text("# mine\n")
    before = everything(project.root)
    with pytest.raises(ProjectError, match="would overwrite"):
        run("new-family", "x")
    assert everything(project.root) == before


def test_a_family_that_is_there_is_taken(project: Project) -> None:
    run("new-family", "x")
    project.activate()
    before = everything(project.root)
    with pytest.raises(ProjectError, match="it is taken"):
        run("new-family", "x")
    assert everything(project.root) == before


def test_faults_of_a_spec_come_at_once_and_nothing_is_written(project: Project) -> None:
    Path("spec.yaml").write_text("archs: {a: {num_heads: 5, model_dim: 64, num_layers: 0, vocab_size: -1}}")
    before = everything(project.root)
    with pytest.raises(ConfigError) as error:
        run("new-family", "x", "--spec", "spec.yaml")
    assert error.value.faults == (
        "archs.a: num_layers = 0: must be a number above 0",
        "archs.a: vocab_size = -1: must be a number above 0",
        "archs.a: num_heads = 5 does not divide model_dim = 64: 2, 4, 8 would",
    )
    assert everything(project.root) == before


def test_a_project_of_ones_own_layout_and_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    root = tmp_path / "company"
    package = root / "src" / "company" / "models"
    package.mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        '[tool.kinfold]\npackage = "company.models"\nsource = "src"\ntests = "checks"\n[tool.ruff]\nline-length = 88\n'
    )
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "registry.py").write_text("FAMILIES = {}\n")
    monkeypatch.chdir(package)
    run("new-family", "x")
    assert (root / "checks" / "test_x.py").is_file()
    sources = list((package / "x").glob("*.py"))
    assert len(sources) == 5
    assert [line for path in sources for line in path.read_text().splitlines() if len(line) > 88] == []
    found = find_project()
    assert found is not None
    assert found.families() == {"x": "company.models.x"}


def test_sources_exclude_each_other(project: Project) -> None:
    result = run("new-family", "x", "--like", "llama", "--spec", "spec.yaml")
    assert result.exit_code == 2
    assert "exclude each other" in result.output


def test_a_broken_family_is_not_handed_over(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinfold.errors import CertificateError
    from kinfold.scaffold.render import context

    monkeypatch.setattr(context, "key_map_rules", lambda spec, layout: ['rename("a", "b")'])
    before = everything(project.root)
    with pytest.raises(CertificateError, match=r"decoder\.layers\.0\.self_attn\.q_proj\.weight"):
        new_family("x", project, Spec())
    assert everything(project.root) == before
