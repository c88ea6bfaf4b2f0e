"""Where control nodes find the database that they share: what of a URL is taken, and what is too unsafe. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit


class BadUrl(ValueError):
    """The URL of a database cannot be used; the message says why, and has no password in it."""


def check_database_url(text: str) -> None:
    """Pass what leads to PostgreSQL safely.

    Raises:
        BadUrl: a password in it would be seen by everybody on the machine, or the way there is not said to be safe.
    """
    try:
        parts = urlsplit(text)
        host, query = parts.hostname or "", parse_qs(parts.query)
    except ValueError:
        raise BadUrl("it is no URL") from None
    if parts.scheme != "postgresql" or parts.path in ("", "/"):
        raise BadUrl("it is not like postgresql://causeway@db.example.net/causeway?sslmode=verify-full")
    if parts.password is not None or "password" in query:
        raise BadUrl(
            "a password in it is seen by everybody on this machine: put it into ~/.pgpass, or ?passfile=FILE, mode 0600"
        )
    host = query.get("host", [host])[0]
    if not _is_here(host) and "sslmode" not in query and "service" not in query:
        raise BadUrl(
            f"say how the way to {host} is kept safe: ?sslmode=verify-full&sslrootcert=FILE, "
            "or ?sslmode=disable where the network between is private"
        )


def _is_here(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
