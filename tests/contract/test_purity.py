"""What decides touches nothing: a fresh interpreter that imports it has no sockets, loop or database."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import causeway.model
import causeway.routing

IMPURE = ("asyncio", "socket", "sqlite3", "sqlalchemy", "fastapi", "pydantic", "httpx", "causeway.native")


def test_the_model_is_pure() -> None:
    names = modules("model", causeway.model.__path__[0])
    assert len(names) > 10
    assert imported(names, IMPURE) == "[]"


def test_routing_is_pure() -> None:
    names = modules("routing", causeway.routing.__path__[0])
    assert len(names) > 5
    assert imported(names, IMPURE) == "[]"


def modules(package: str, folder: str) -> list[str]:
    found = sorted(Path(folder).rglob("*.py"))
    return [
        ".".join(("causeway", package, *path.relative_to(folder).with_suffix("").parts))
        for path in found
        if path.name != "__init__.py"
    ]


def imported(names: list[str], of: Sequence[str]) -> str:
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {of!r} if name in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
