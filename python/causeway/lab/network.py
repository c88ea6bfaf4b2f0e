"""The PoPs of a lab as one network: control in one of them, with nats-server, and edges that join it in the others.

All of it is what an operator types: `causeway up --exchange`, `nats-server -c`, `causeway invite` and
`causeway edge --join`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from causeway.lab import namespaces
from causeway.lab.problem import LabError
from causeway.lab.world import Network, Node

EXCHANGE_PORT, OVERLAY_PORT, API_PORT = 4222, 4280, 8787
DATA = "causeway-data"
NATS_CONFIGURATION = Path("exchange") / "nats.conf"  # in control's data

Command = tuple[str, ...]


def check_can() -> None:
    """Raises LabError: what a network needs is not installed."""
    if shutil.which("nats-server", path=namespaces.PATH) is None:
        raise LabError("lab_program", "[network] needs nats-server: apt-get install nats-server")


def pop(node: Node, folder: Path, network: Network | None) -> tuple[Command, Command]:
    """What runs in a PoP, and what is to run when it has ended."""
    python, data = (sys.executable, "-m"), ("--data-dir", str(folder / DATA))
    addresses = ("--api", f"127.0.0.1:{API_PORT}", "--edge-ip", node.address, "--edge-ip", node.address6)
    flags: Command = (*addresses, "--workers", "1")
    if network:
        flags += ("--overlay", f"{node.address}:{OVERLAY_PORT}")
        if node.name == network.control:
            flags += ("--exchange", f"tls://{node.address}:{EXCHANGE_PORT}", *network.flags)
        else:
            flags += ("--join", str(folder / f"{node.name}.join"))
    return (*python, "causeway.up", *data, *flags), (*python, "causeway.edge.down", *data, "--flush")


def exchange(folder: Path) -> Command:
    """What carries snapshots and reports; `folder`: of the node that control is in."""
    return ("nats-server", "-c", str(folder / DATA / NATS_CONFIGURATION))


def invite(node: Node) -> Command:
    """Makes the invitation of a node, in the folder where it is run."""
    return ("causeway", "invite", node.name)
