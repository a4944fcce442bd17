"""Files of the web, which are fetched only where it is allowed, and only with a checksum."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kinfold.assets.checksum import Checksum, digest_of
from kinfold.assets.places import cache_folder
from kinfold.assets.uri import Role, Uri
from kinfold.errors import CardError

VARIABLE = "KINFOLD_ALLOW_HTTPS"


@dataclass(frozen=True, slots=True)
class HttpsUri(Uri):
    """One file; kept in the cache under its checksum."""

    url: str

    @classmethod
    def parse(cls, text: str, card: Path) -> HttpsUri:
        """Read `text`, which has to name a host and a file."""
        uri = cls(text)
        if not urlsplit(text).hostname or not text.startswith("https://") or uri.name in ("", ".", ".."):
            raise CardError(f"{text!r} names no file; it should be https://host/path/of/a/file.")
        return uri

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(unquote(urlsplit(self.url).path)).name

    def __str__(self) -> str:
        return self.url

    def here(self, role: Role, checksum: Checksum | None) -> Path | None:
        digest = digest_of(checksum, self.name)
        path = self._kept(digest) if digest else None
        return path if path and path.exists() else None

    def fetch(self, role: Role, checksum: Checksum | None) -> Path:
        if found := self.here(role, checksum):
            return found
        digest = digest_of(checksum, self.name)
        faults = []
        if os.environ.get(VARIABLE) != "1":
            faults.append(f"nothing is fetched by https: unless the environment variable {VARIABLE} is 1")
        if digest is None:
            faults.append(f"nothing is fetched by https: without a `checksum` of {self.name}")
        if faults or digest is None:
            raise CardError("It is not fetched:", faults=faults)
        return _download(self.url, self._kept(digest), digest)

    def _kept(self, digest: str) -> Path:
        return cache_folder() / "https" / digest / self.name


def _download(url: str, path: Path, digest: str) -> Path:
    """Fetch a file; it is at `path` complete and with that digest, or not at all."""
    from torch.hub import download_url_to_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), hash_prefix=digest, progress=sys.stderr.isatty())
    except OSError as error:  # urllib's are of this tree
        raise CardError(f"It could not be fetched to {path}: {error}") from error
    except RuntimeError as error:  # torch's own, where the digest is another; it says both
        raise CardError(
            f"What was fetched is not what the `checksum` says: {error}.", hint="Nothing of it was kept."
        ) from error
    return path
