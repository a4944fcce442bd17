"""From a value of a card to a file or folder on this machine, when it is needed and no sooner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kinfold.assets.checksum import Checksum, check_files
from kinfold.assets.https import HttpsUri
from kinfold.assets.hub import HubUri
from kinfold.assets.uri import SCHEME, FileUri, Role, Uri
from kinfold.errors import CardError

SCHEMES: Mapping[str, Callable[[str, Path], Uri]] = {
    "file": FileUri.parse,
    "hf": HubUri.parse,
    "https": HttpsUri.parse,
}


def parse_uri(text: str, card: Path) -> Uri:
    """What a URI, or a plain path, in the file `card` points to.

    Raises:
        CardError: Its scheme is not known, or it is malformed.
    """
    found = SCHEME.fullmatch(text)
    if not found:
        return FileUri.parse(text, card)
    if found[1] not in SCHEMES:
        known = ", ".join(f"`{scheme}:`" for scheme in SCHEMES)
        raise CardError(f"{text!r} has the scheme {found[1]!r}; supported: a path, or one of {known}.")
    return SCHEMES[found[1]](text, card)


@dataclass(frozen=True)
class Place:
    """What one value of a card points to.

    Attributes:
        uri: Where that is.
        card: The file that says so.
        key: The key that says so.
        role: What it is wanted as.
        checksum: What the card says its files have; None if it says nothing of them.
    """

    uri: Uri
    card: Path
    key: Role
    role: Role
    checksum: Checksum | None = None

    def here(self) -> Path | None:
        """Where it lies on this machine, if it does; fetches and checks nothing."""
        return self.uri.here(self.role, self.checksum)

    def local(self) -> Path:
        """Where it lies on this machine; fetched if it did not, and checked if there is a checksum.

        Raises:
            CardError: It cannot be had, or is not what the checksum says.
        """
        try:
            path = self.uri.fetch(self.role, self.checksum)
            if self.checksum is not None and self.role == "checkpoint" and path.exists():
                check_files(path, self.checksum)
        except CardError as error:
            raise CardError(
                f"{self.card}: `{self.key}` is {str(self.uri)!r}. {error.summary}",
                faults=error.faults,
                hint=error.hint,
            ) from error
        return path
