"""The model decides and touches nothing: a fresh interpreter that imports it has no sockets, loop or database."""

import subprocess
import sys
from pathlib import Path

import causeway.model

IMPURE = ("asyncio", "socket", "sqlite3", "sqlalchemy", "fastapi", "pydantic", "httpx", "causeway.native")


def test_the_model_is_pure() -> None:
    folder = Path(causeway.model.__path__[0])
    modules = [
        ".".join(("causeway", "model", *path.relative_to(folder).with_suffix("").parts))
        for path in sorted(folder.rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert len(modules) > 10
    code = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {IMPURE!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
