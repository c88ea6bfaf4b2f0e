"""The HTTP application is only built: importing and building it starts nothing and needs nothing that runs."""

import subprocess
import sys

CODE = """
import asyncio, threading
from causeway.api.server import build
from causeway.control.plane import Plane
from causeway.control.tokens import Keyring
from causeway.exchange.local import LocalExchange

app = build(Plane(site=None, exchange=LocalExchange()), Keyring("x" * 40), asyncio.Event())
app.openapi()
try:
    asyncio.get_running_loop()
except RuntimeError:
    print([thread.name for thread in threading.enumerate()])
"""


def test_building_it_needs_no_loop_and_starts_no_thread() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['MainThread']"
