"""Repositories of the Hugging Face Hub, through huggingface_hub: its cache, its settings, its offline mode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from kinfold.assets.checksum import Checksum
from kinfold.assets.uri import Role, Uri
from kinfold.checkpoint.names import (
    CONFIGS,
    GENERATION_CONFIG,
    INDEX,
    META_RANKS,
    PICKLE_INDEX,
    PICKLE_SINGLE,
    SINGLE,
    TOKENIZER_FILES,
)
from kinfold.errors import CardError

FORM = "hf://owner/repo, hf://owner/repo@revision or hf://owner/repo@revision/path/of/a/file"

CONFIG_FILES = (*CONFIGS, GENERATION_CONFIG)
WEIGHTS = (
    (INDEX, SINGLE, "model-*-of-*.safetensors"),
    ("*.safetensors",),
    (PICKLE_INDEX, PICKLE_SINGLE, "pytorch_model-*-of-*.bin"),
    (META_RANKS,),
)
"""The files of weights, those to be preferred first; of others nothing is fetched once some are there."""

_FORM = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<path>.+))?")


@dataclass(frozen=True, slots=True)
class HubUri(Uri):
    """A repository, or one file of it.

    Attributes:
        repo: Owner and name.
        revision: A branch, a tag or a commit; that of the default branch if None.
        path: The file in the repository; None for what is read of the whole.
    """

    repo: str
    revision: str | None
    path: str | None

    @classmethod
    def parse(cls, text: str, card: Path) -> HubUri:
        """Read `text`; a slash in a revision is written `%2F`."""
        found = _FORM.fullmatch(text)
        path = found["path"] if found else None
        if not found or (path is not None and {"", ".", ".."} & set(path.split("/"))):
            raise CardError(f"{text!r} is no place on the Hub; it should be {FORM}.")
        return cls(found["repo"], unquote(found["revision"]) if found["revision"] else None, path)

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{revision}{f'/{self.path}' if self.path else ''}"

    def here(self, role: Role, checksum: Checksum | None) -> Path | None:
        try:
            return self._find(role, local_files_only=True)
        except CardError:
            return None

    def fetch(self, role: Role, checksum: Checksum | None) -> Path:
        return self._find(role, local_files_only=False)

    def _find(self, role: Role, *, local_files_only: bool) -> Path:
        try:
            import huggingface_hub
        except ImportError as error:
            raise CardError(
                "huggingface_hub is not installed.", hint="Install it with `pip install 'kinfold[hub]'`."
            ) from error
        repo = _Repository(huggingface_hub, self, local_files_only)
        try:
            if self.path is not None:
                return repo.file(self.path)
            return _tokenizer(repo) if role == "tokenizer" else _checkpoint(repo)
        except CardError:
            raise
        except Exception as error:  # the package's own are of several trees, one of them that of its HTTP client
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            raise CardError(f"{type(error).__name__}: {reason}", hint=_advice(huggingface_hub, self)) from error


@dataclass(frozen=True, slots=True)
class _Repository:
    """What the package has of one repository."""

    hub: Any
    uri: HubUri
    local_files_only: bool

    def file(self, path: str) -> Path:
        """One file."""
        return Path(
            self.hub.hf_hub_download(
                self.uri.repo, path, revision=self.uri.revision, local_files_only=self.local_files_only
            )
        )

    def files(self, *patterns: str, commit: str | None = None) -> Path:
        """The folder, called after its commit, with all files that match and lie in no folder of the repository."""
        return Path(
            self.hub.snapshot_download(
                self.uri.repo,
                revision=commit or self.uri.revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
                local_files_only=self.local_files_only,
            )
        )

    def names(self, folder: Path, suffix: str) -> list[str]:
        """The names with that suffix; in `folder`, which is of this repository, if only those may be had."""
        if self.local_files_only or self.hub.constants.HF_HUB_OFFLINE:
            found = [path.name for path in folder.iterdir()]
        else:
            found = self.hub.HfApi().list_repo_files(self.uri.repo, revision=self.uri.revision)
        return sorted(name for name in found if name.endswith(suffix) and "/" not in name)


def _tokenizer(repo: _Repository) -> Path:
    """The folder with the tokenizer of a repository; or its only GGUF file, which has its own."""
    folder = repo.files(*CONFIG_FILES, *TOKENIZER_FILES)
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        return folder
    names = repo.names(folder, ".gguf")
    if len(names) != 1:
        raise CardError("There is no tokenizer in it.", hint="Name another place: `tokenizer: ...`.")
    return repo.file(names[0])


def _checkpoint(repo: _Repository) -> Path:
    """The folder with the weights of a repository and what goes with them; or its only GGUF file."""
    folder = repo.files(*CONFIG_FILES, *TOKENIZER_FILES)
    for patterns in WEIGHTS:
        repo.files(*patterns, commit=folder.name)  # a branch may move meanwhile
        if any(any(folder.glob(pattern)) for pattern in patterns):
            return folder
    names = repo.names(folder, ".gguf")
    if len(names) == 1:
        return repo.file(names[0])
    if not names:
        raise CardError("There are neither safetensors, nor torch's files, nor a GGUF file in it.")
    place = HubUri(repo.uri.repo, repo.uri.revision or "main", names[0])
    raise CardError(f"There are {len(names)} GGUF files in it.", hint=f"Name one, such as {place}.")


def _advice(hub: Any, uri: HubUri) -> str:
    """What to do about what the package refused."""
    command = f"hf download {uri.repo}{f' {uri.path}' if uri.path else ''}"
    command += f" --revision {uri.revision}" if uri.revision else ""
    if hub.constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set; it has to be fetched once without, by `{command}` for instance."
    return f"`{command}` shows more; what is private or gated needs `hf auth login` first."
