"""What this machine lets the edge do: `causeway doctor` becomes this program.

The engine tries each thing and explains it; here it is only printed. Off is an answer, not a failure: exit 0.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

from causeway import native
from causeway.edge.bird import BirdTrouble
from causeway.edge.bird_socket import ask
from causeway.model.anycast import parse_anycast
from causeway.premises import is_local
from causeway.settings import BIRD_SOCKET
from causeway.supervise.beacon import why_none


class Capability(TypedDict):
    """One answer of the engine's probe."""

    name: str
    available: bool
    detail: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="causeway doctor", description="Say what this machine can do.")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    add = parser.add_argument
    add("--anycast", action="append", default=[], metavar="PREFIX", help="what is to be announced")
    add("--bird-socket", type=Path, metavar="PATH", help=f"default {BIRD_SOCKET}")
    read = parser.parse_args(arguments)
    output = read.output
    found = cast("list[Capability]", json.loads(native.probe()))
    capabilities = [*found, mitigation(found)]
    if read.anycast or read.bird_socket or BIRD_SOCKET.exists():
        capabilities.append(anycast(read.anycast, read.bird_socket or BIRD_SOCKET))
    if output == "json":
        print(json.dumps(capabilities, indent=2))
    else:
        _print_table(capabilities)
    return 0


def mitigation(capabilities: Sequence[Capability]) -> Capability:
    """Say whether attacks could be held off automatically, which rests on the guard."""
    guard = next((found for found in capabilities if found["name"] == "guard"), None)
    if guard and guard["available"]:
        how = "unless causeway up has --guard off; causeway mitigation tells what it does, and switches it on and off."
        return Capability(name="mitigation", available=True, detail=f"Attacks can be held off automatically, {how}")
    why = "the guard cannot judge packets, see there: limits and IP access rules hold all the same."
    return Capability(name="mitigation", available=False, detail=f"Attacks cannot be held off automatically: {why}")


def anycast(prefixes: Sequence[str], bird_socket: Path) -> Capability:
    """Say whether BIRD would announce these, and take them back if the edge dies."""
    missing = [*_unreachable(prefixes), *([why] if (why := why_none()) else [])]
    version = ""
    try:
        version, _ = ask(bird_socket)
    except BirdTrouble as error:
        missing.append(str(error))
    if missing:
        return Capability(name="anycast", available=False, detail=f"Nothing would be announced: {'; '.join(missing)}.")
    return Capability(name="anycast", available=True, detail=f"{version} answers, and causeway up --anycast uses it.")


def _unreachable(prefixes: Sequence[str]) -> list[str]:
    found = []
    for text in prefixes:
        try:
            prefix = parse_anycast(text)
        except ValueError as error:
            found.append(f"{text} is not a prefix such as 198.18.100.7/32: {error}")
            continue
        if prefix.num_addresses == 1 and not is_local(prefix.network_address):
            found.append(f"no interface has {prefix.network_address}: ip address add {prefix} dev lo")
    return found


def summary(capabilities: Sequence[Capability]) -> str:
    """Return the sentence for somebody who reads only one."""
    off = [capability["name"] for capability in capabilities if not capability["available"]]
    if not off:
        return "Everything the edge can use is on."
    return f"{len(off)} of {len(capabilities)} are off ({', '.join(off)}). The edge works all the same."


def _print_table(capabilities: Sequence[Capability]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("CAPABILITY", no_wrap=True)
    table.add_column("STATE")
    table.add_column("WHAT IT MEANS", overflow="fold")
    for capability in capabilities:
        state = Text("on", style="green") if capability["available"] else Text("off", style="yellow")
        table.add_row(Text(capability["name"]), state, Text(capability["detail"]))
    console.print(table)
    console.print()
    console.print(summary(capabilities), style="bold")


if __name__ == "__main__":
    sys.exit(main())
