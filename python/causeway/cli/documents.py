"""Application files for -f: JSON or TOML, one application or a list under `applications`.

The fields are those of the API, so the output of `causeway apps show -o json` is such a file.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from causeway.cli.draft import Body
from causeway.cli.problems import Misuse

LIMIT_BYTES = 1 << 20
LIST_KEY = "applications"


def read_documents(path: Path) -> list[Body]:
    """Return the applications in a file; `-` reads JSON from standard input."""
    try:
        content = sys.stdin.buffer.read(LIMIT_BYTES + 1) if str(path) == "-" else _read(path)
    except OSError as error:
        raise Misuse(f"-f {path}: {error.strerror}") from error
    if len(content) > LIMIT_BYTES:
        raise Misuse(f"-f {path} is larger than {LIMIT_BYTES} bytes, which no application file is")
    return parse_documents(content, is_toml=path.suffix.lower() == ".toml", source=str(path))


def parse_documents(content: bytes, *, is_toml: bool, source: str) -> list[Body]:
    try:
        text = content.decode()
        parsed: object = tomllib.loads(text) if is_toml else json.loads(text)
        json.dumps(parsed, allow_nan=False)  # TOML knows dates, and both parsers NaN; the API neither
    except (TypeError, ValueError, RecursionError) as error:
        raise Misuse(f"-f {source} is not {'TOML' if is_toml else 'JSON'}: {error}") from error
    items: object = parsed.get(LIST_KEY, [parsed]) if isinstance(parsed, dict) else parsed
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) and item for item in items):
        raise Misuse(f"-f {source} holds no application: expected one object, or a list under {LIST_KEY!r}")
    return items


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LIMIT_BYTES + 1)
