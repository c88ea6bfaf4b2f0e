"""Which server, and with which token: from options, environment and files, in that order.

A token is never an argument, because arguments show in `ps`. One found by itself goes to this machine only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from causeway.cli.problems import Misuse

if TYPE_CHECKING:
    from causeway.client import Client

DEFAULT_TOKEN_FILE = Path("causeway-data/token")
LIMIT_BYTES = 4096  # a token is some 40 characters; anything larger is another file

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Server, by default CAUSEWAY_URL or http://127.0.0.1:8787.",
        rich_help_panel="Server",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the API token, by default CAUSEWAY_API_TOKEN or ./causeway-data/token.",
        rich_help_panel="Server",
    ),
]


def connect(url: str | None, token_file: Path | None) -> Client:
    """Return a client for the server the operator means; nothing is sent yet."""
    # httpx has a command line of its own; hiding it saves loading click, pygments and all of rich.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from causeway.client import DEFAULT_URL, Client, is_loopback

    chosen = url or os.environ.get("CAUSEWAY_URL") or DEFAULT_URL
    if not is_usable(chosen):
        raise Misuse(f"--url {chosen!r} is not like http://HOST:PORT")
    token = find_token(token_file, os.environ.get("CAUSEWAY_API_TOKEN"), is_local=is_loopback(chosen))
    return Client(chosen, token)


def is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:
        return False


def find_token(token_file: Path | None, from_environment: str | None, *, is_local: bool) -> str:
    if token_file is not None:
        return _read(token_file)
    if from_environment:
        return _check(from_environment.strip(), "CAUSEWAY_API_TOKEN")
    if is_local and DEFAULT_TOKEN_FILE.is_file() and os.access(DEFAULT_TOKEN_FILE, os.R_OK):
        return _read(DEFAULT_TOKEN_FILE)
    raise Misuse(
        "no API token: run this where `causeway up` keeps its causeway-data, set CAUSEWAY_API_TOKEN, "
        "or pass --token-file DIR/token of the server's data directory"
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES)
    except OSError as error:
        raise Misuse(f"--token-file {path}: {error.strerror}") from error
    return _check(content.decode("ascii", "replace").strip(), str(path))


def _check(token: str, source: str) -> str:
    if not token or not all(char.isascii() and (char.isalnum() or char in "-_") for char in token):
        raise Misuse(f"{source} holds no API token (letters, digits, - and _ on one line)")
    return token
