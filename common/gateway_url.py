"""A gateway's address as people write it, to the one that paths are put behind."""

from urllib.parse import urlsplit

from common.credentials import shown_url

EMBEDDINGS = "/embeddings"
VERSION = "/v1"
FROM_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # hosts that mean every address


def base_url(url: str) -> str:
    """The URL without trailing slashes, `/embeddings`, and the `/v1` that OpenAI clients need. Raises ValueError."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        usable = False
    if not usable:
        raise ValueError(f"{shown_url(url)!r} is not an http:// or https:// URL")
    if parts.query or parts.fragment:
        raise ValueError(
            f"{shown_url(url)!r} has a query or a fragment: give the address alone, such as http://127.0.0.1:8080"
        )
    path = parts.path.rstrip("/").removesuffix(EMBEDDINGS).rstrip("/").removesuffix(VERSION).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def in_url(host: str) -> str:
    """A host as URLs and the header Host have it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def reachable(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    return FROM_HERE.get(host, host)


def url_of_listener(host: str, port: int) -> str:
    """The base URL, on this machine, of a server that listens on `host` and `port`."""
    return f"http://{in_url(reachable(host))}:{port}"
