"""Repositories of the Hub, from a cache that is laid out by hand as huggingface_hub lays it out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from kinfold import load_model, retrieve_asset_card
from kinfold.assets import read_card
from kinfold.assets.hub import HubUri
from kinfold.errors import CardError

WriteCard = Callable[..., Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = (
    "{model_dim: 64, num_layers: 3, num_heads: 4, num_kv_heads: 2, head_dim: 16, ffn_inner_dim: 96, "
    "ffn_inner_dim_to_multiple: 1, vocab_size: 256, max_seq_len: 128}"
)


class Cache:
    """A cache of huggingface_hub: blobs by their digest, snapshots of links to them, refs to snapshots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, repo: str, name: str, data: bytes, *, ref: str = "main", commit: str = COMMIT) -> Path:
        """Put one file into a snapshot."""
        store = self.folder / f"models--{repo.replace('/', '--')}"
        blob = store / "blobs" / sha256(data).hexdigest()
        link = store / "snapshots" / commit / name
        for path in (blob, link, store / "refs" / ref):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(Path(*[".."] * len(link.relative_to(store).parts[1:]), "blobs", blob.name))
        (store / "refs" / ref).write_text(commit)
        return link


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """The cache in use, offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Cache(tmp_path / "hub")


def test_a_card_on_the_hub_is_loaded_like_one_here(
    cache: Cache, card: WriteCard, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = tiny_checkpoint("llama")
    links = [cache.add("owner/tiny", path.name, path.read_bytes()) for path in source.iterdir()]
    path = card("x", f"model_family: llama\nmodel_config: {SIZES}\ncheckpoint: hf://owner/tiny")
    model = load_model(path)
    expected = {name: tensor for file in source.glob("model-*") for name, tensor in load_file(file).items()}
    assert torch.equal(model.get_parameter("final_proj.weight"), expected["lm_head.weight"])
    assert len(list(model.parameters())) == len(expected)
    assert torch.equal(load_model("x").get_parameter("final_proj.weight"), expected["lm_head.weight"])
    found = retrieve_asset_card("x")
    assert found.checkpoint == links[0].parent
    with pytest.raises(CardError, match=r"`checkpoint` is 'hf://owner/tiny'\. There is no tokenizer in it"):
        _ = found.tokenizer
    cache.add("owner/tiny", "tokenizer.json", b"{}")
    assert found.tokenizer == links[0].parent
    assert found.checkpoint_place
    assert found.checkpoint_place.here() == links[0].parent


def test_the_settings_of_huggingface_hub_hold(
    card: WriteCard, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    home = tmp_path / "home of the hub"
    for path in tiny_checkpoint("llama").iterdir():
        Cache(home / "hub").add("owner/tiny", path.name, path.read_bytes())
    card("x", f"model_family: llama\nmodel_config: {SIZES}\ncheckpoint: hf://owner/tiny")
    command = [Path(sys.executable).with_name("scaffold"), "verify", "x"]
    for folder, status in ((home, 0), (tmp_path / "empty", 1)):
        environment = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            environment.pop(name, None)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == status, done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr


@pytest.mark.parametrize(
    ("uri", "repo", "revision", "path"),
    [
        ("hf://owner/repo", "owner/repo", None, None),
        ("hf://owner/repo.v1@v1.0", "owner/repo.v1", "v1.0", None),
        ("hf://owner/repo@main/a/b.gguf", "owner/repo", "main", "a/b.gguf"),
        ("hf://owner/repo/b.gguf", "owner/repo", None, "b.gguf"),
        ("hf://owner/repo@refs%2Fpr%2F1", "owner/repo", "refs/pr/1", None),
    ],
)
def test_what_a_uri_means(uri: str, repo: str, revision: str | None, path: str | None) -> None:
    found = HubUri.parse(uri, Path("card"))
    assert found == HubUri(repo, revision, path)
    assert str(found) == uri


@pytest.mark.parametrize(
    "uri", ["hf:owner/repo", "hf://owner", "hf://owner/repo@", "hf://owner/repo@a@b", "hf://owner/repo@main/../../x"]
)
def test_malformed_uris_are_refused_when_the_card_is_read(card: WriteCard, uri: str) -> None:
    with pytest.raises(CardError, match="is no place on the Hub; it should be hf://owner/repo"):
        read_card(card("x", f"model_family: llama\ncheckpoint: {uri}"))


def checkpoint(card: WriteCard, uri: str, key: str = "checkpoint") -> Path | None:
    return getattr(read_card(card("x", f"model_family: llama\n{key}: {uri}")), key)


def test_a_revision_and_a_single_file(cache: Cache, card: WriteCard) -> None:
    old = cache.add("o/r", "model.safetensors", b"old", ref="v1", commit="1" * 40)
    new = cache.add("o/r", "model.safetensors", b"new")
    quantised = cache.add("o/r", "q/model.gguf", b"q")
    assert checkpoint(card, "hf://o/r") == new.parent
    assert checkpoint(card, "hf://o/r@v1") == old.parent
    assert checkpoint(card, f"hf://o/r@{'1' * 40}") == old.parent
    assert checkpoint(card, "hf://o/r@main/q/model.gguf") == quantised
    with pytest.raises(CardError, match=r"`checkpoint` is 'hf://o/r@v2'\. .*Entry"):
        checkpoint(card, "hf://o/r@v2")
    with pytest.raises(CardError, match="Entry"):
        checkpoint(card, "hf://o/r@v1/q/model.gguf")


def test_a_gguf_file_is_taken_if_it_is_all_there_is(cache: Cache, card: WriteCard) -> None:
    first = cache.add("o/r", "b.gguf", b"b")
    assert checkpoint(card, "hf://o/r") == first
    assert read_card(card("x", "model_family: llama\ncheckpoint: hf://o/r")).tokenizer == first  # it has its own
    cache.add("o/r", "a.gguf", b"a")
    with pytest.raises(CardError, match=r"There are 2 GGUF files in it\.\nName one, such as hf://o/r@main/a\.gguf"):
        checkpoint(card, "hf://o/r")
    weights = cache.add("o/r", "pytorch_model.bin", b"p")
    assert checkpoint(card, "hf://o/r") == weights.parent
    cache.add("o/empty", "README.md", b"")
    with pytest.raises(CardError, match="There are neither safetensors"):
        checkpoint(card, "hf://o/empty")


def test_what_is_asked_of_the_hub_is_what_is_read(
    cache: Cache, card: WriteCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is played by a folder: what matches the patterns is copied."""
    from fnmatch import fnmatch

    remote, local = tmp_path / "remote", tmp_path / "local"
    asked: set[tuple[str, str | None]] = set()

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        asked.add((repo, revision))
        local.mkdir(exist_ok=True)
        for path in remote.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, local)
        return str(local)

    def fetched(key: str, *names: str) -> set[str]:
        for folder in (remote, local):
            shutil.rmtree(folder, ignore_errors=True)
        remote.mkdir()
        for name in names:
            (remote / name).write_text("")
        assert checkpoint(card, "hf://o/r@v1", key) == local
        return {path.name for path in local.iterdir()}

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    index, shard = "model.safetensors.index.json", "model-00001-of-00001.safetensors"
    config = ("config.json", "generation_config.json", "tokenizer.json")
    everything = (*config, index, shard, "consolidated.safetensors", "pytorch_model.bin", "x.gguf", "README.md")
    assert fetched("checkpoint", *everything) == {*config, index, shard}
    assert fetched("checkpoint", "adapter.safetensors", "pytorch_model.bin") == {"adapter.safetensors"}
    assert fetched("checkpoint", "config.json", "pytorch_model.bin", "x.gguf") == {"config.json", "pytorch_model.bin"}
    assert fetched("checkpoint", "params.json", "consolidated.00.pth") == {"params.json", "consolidated.00.pth"}
    assert fetched("tokenizer", *everything) == set(config)
    assert asked == {("o/r", "v1"), ("o/r", local.name)}  # the snapshot of v1, and then no other


def test_what_is_not_in_the_cache_offline_says_what_to_do(cache: Cache, card: WriteCard) -> None:
    path = card("x", "model_family: llama\ncheckpoint: hf://o/r@v1\ntokenizer: hf://o/t@main/tokenizer.json")
    found = read_card(path)
    assert found.checkpoint_place
    assert found.checkpoint_place.here() is None
    with pytest.raises(CardError) as error:
        load_model(path)
    assert error.value.summary.startswith(f"{path}: `checkpoint` is 'hf://o/r@v1'. LocalEntryNotFoundError: ")
    assert "HF_HUB_OFFLINE is set" in str(error.value.hint)
    assert "`hf download o/r --revision v1`" in str(error.value.hint)
    with pytest.raises(CardError) as error:
        _ = found.tokenizer
    assert error.value.summary.startswith(f"{path}: `tokenizer` is 'hf://o/t@main/tokenizer.json'. ")
    assert "`hf download o/t tokenizer.json --revision main`" in str(error.value.hint)


def test_without_the_package(card: WriteCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    found = read_card(card("x", "model_family: llama\ncheckpoint: hf://o/r"))
    assert found.checkpoint_place
    assert found.checkpoint_place.here() is None
    with pytest.raises(CardError, match=r"`checkpoint` is 'hf://o/r'. huggingface_hub is not installed") as error:
        _ = found.checkpoint
    assert error.value.hint == "Install it with `pip install 'kinfold[hub]'`."


def test_the_checksum_of_a_file_on_the_hub(cache: Cache, card: WriteCard) -> None:
    link = cache.add("o/r", "model.safetensors", b"abc")
    text = "model_family: llama\ncheckpoint: hf://o/r\nchecksum: {model.safetensors: sha256:%s}"
    assert read_card(card("x", text % sha256(b"abc").hexdigest())).checkpoint == link.parent
    with pytest.raises(CardError, match="is not what the checksum says"):
        _ = read_card(card("x", text % sha256(b"abd").hexdigest())).checkpoint
