"""What this machine lets the edge do: `causeway doctor` becomes this program.

The engine tries each thing and explains it; here it is only printed. Off is an answer, not a failure: exit 0.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TypedDict, cast

from causeway import native


class Capability(TypedDict):
    """One answer of the engine's probe."""

    name: str
    available: bool
    detail: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="causeway doctor", description="Say what this machine can do.")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    output = parser.parse_args(arguments).output
    found = cast("list[Capability]", json.loads(native.probe()))
    capabilities = [*found, mitigation(found)]
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
