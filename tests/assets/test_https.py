"""Files of the web: refused unless allowed, kept only with the right checksum."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch.hub

from kinfold.assets import cache_folder, read_card
from kinfold.errors import CardError

WriteCard = Callable[..., Path]
HOST = "https://weights.example"
DATA = b"weights"
DIGEST = hashlib.sha256(DATA).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was asked of the host, which is played by a server of this machine."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a model.gguf").write_bytes(DATA)
    asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def open_here(request: Request) -> Any:
            asked.append(request.full_url)
            return urlopen(request.full_url.replace(HOST, f"http://127.0.0.1:{server.server_port}"))

        monkeypatch.setattr(torch.hub, "urlopen", open_here)
        yield asked
        server.shutdown()


def test_nothing_is_fetched_unless_it_is_allowed_and_has_a_checksum(
    asked: list[str], card: WriteCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = card("x", f"model_family: llama\ncheckpoint: {HOST}/a%20model.gguf")
    with pytest.raises(CardError) as error:
        _ = read_card(path).checkpoint
    assert error.value.summary == f"{path}: `checkpoint` is '{HOST}/a%20model.gguf'. It is not fetched:"
    assert error.value.faults == (
        "nothing is fetched by https: unless the environment variable KINFOLD_ALLOW_HTTPS is 1",
        "nothing is fetched by https: without a `checksum` of a model.gguf",
    )
    monkeypatch.setenv("KINFOLD_ALLOW_HTTPS", "1")
    with pytest.raises(CardError) as error:
        _ = read_card(path).checkpoint
    assert len(error.value.faults) == 1
    assert asked == []


def test_what_was_fetched_is_kept(asked: list[str], card: WriteCard, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_card(card("x", f"model_family: llama\ncheckpoint: {HOST}/a%20model.gguf\nchecksum: sha256:{DIGEST}"))
    assert found.checkpoint_place
    assert found.checkpoint_place.here() is None
    monkeypatch.setenv("KINFOLD_ALLOW_HTTPS", "1")
    path = found.checkpoint_place.local()
    assert path == cache_folder() / "https" / DIGEST / "a model.gguf"
    assert path.read_bytes() == DATA
    monkeypatch.delenv("KINFOLD_ALLOW_HTTPS")
    assert found.checkpoint == found.tokenizer == found.checkpoint_place.here() == path
    assert asked == [f"{HOST}/a%20model.gguf"]
    path.write_text("other")
    with pytest.raises(CardError, match="is not what the checksum says"):
        _ = found.checkpoint


@pytest.mark.parametrize("digest", ["0" * 64, None])
def test_what_is_not_as_it_should_be_leaves_nothing(
    asked: list[str], card: WriteCard, monkeypatch: pytest.MonkeyPatch, digest: str | None
) -> None:
    name, said = ("a%20model.gguf", f'expected "{digest}", got "{DIGEST}"') if digest else ("other", "404")
    monkeypatch.setenv("KINFOLD_ALLOW_HTTPS", "1")
    found = read_card(card("x", f"model_family: llama\ncheckpoint: {HOST}/{name}\nchecksum: sha256:{digest or DIGEST}"))
    with pytest.raises(CardError, match=said):
        _ = found.checkpoint
    assert len(asked) == 1
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []


def test_a_tokenizer_needs_a_checksum_of_its_own(
    asked: list[str], card: WriteCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINFOLD_ALLOW_HTTPS", "1")
    text = f"model_family: llama\ncheckpoint: w\ntokenizer: {HOST}/a%20model.gguf\nchecksum: "
    with pytest.raises(CardError, match=r"without a `checksum` of a model\.gguf"):
        _ = read_card(card("x", f"{text}sha256:{DIGEST}")).tokenizer
    found = read_card(card("x", f"{text}{{w: sha256:{DIGEST}, a model.gguf: sha256:{DIGEST}}}")).tokenizer
    assert found
    assert found.read_bytes() == DATA


@pytest.mark.parametrize(
    "uri", ["https:x", "https://", "https://host", "https://host/", "https:///x", "https://h/a/.."]
)
def test_what_names_no_file_is_refused_when_the_card_is_read(card: WriteCard, uri: str) -> None:
    with pytest.raises(CardError, match="names no file"):
        read_card(card("x", f"model_family: llama\ncheckpoint: '{uri}'"))
