"""The console's files as they are sent: read once, each with its type, its ETag and the page's policy.

The policy lets the page load its own scripts and styles and ask its own gateway, and nothing else: no inline script,
no other host, no frame around it. Files are asked for again each time and answered with 304 where they are the same.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}
TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE: Final = "console.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its content, its media type and its strong ETag."""

    content: bytes
    type: str
    etag: str

    def is_known(self, if_none_match: str) -> bool:
        """Whether a client that sends this `If-None-Match` has it already."""
        known = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
        return self.etag in known or "*" in known


def load_assets() -> dict[str, Asset]:
    """All files of the page by their names."""
    found = {}
    for file in files(__package__).joinpath("assets").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in TYPES:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[file.name] = Asset(content, TYPES[suffix], etag)
    return found
