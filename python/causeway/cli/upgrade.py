"""`causeway upgrade`: ask the causeway of a data directory to go on as a new process, and wait until it does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from causeway.cli.command import GroupedCommand
from causeway.cli.escape import printable
from causeway.cli.problems import EXIT_REFUSED, EXIT_UNREACHABLE

app = typer.Typer(rich_markup_mode=None)

_SILENT_S = 150.0  # longer than any step may take before the supervisor gives it up


@app.command(cls=GroupedCommand)
def upgrade(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Of the running causeway. Default: ./causeway-data."),
    ] = None,
) -> None:
    """Replace the running process by one with the code that is installed now, without losing a connection.

    Exit status 0: the new one serves; 1: it does not and the old one serves on; 3: nothing runs there.
    """
    from causeway.supervise.door import NobodyHome, call

    directory = data_dir or Path("causeway-data")
    try:
        for told in call(directory, "upgrade", _SILENT_S):
            if "progress" in told:
                print(printable(str(told["progress"])), flush=True)
            elif "done" in told:
                return _report(told["done"])
            elif "failed" in told:
                _fail("upgrade_failed", "edge", str(told["failed"]), "see the log of causeway", EXIT_REFUSED)
    except NobodyHome as error:
        where = f"{directory}: no causeway answers there ({error})"
        _fail(
            "not_running", "operator", where, "start one with `causeway up`, or give its --data-dir", EXIT_UNREACHABLE
        )
    except (OSError, ValueError) as error:
        _fail("upgrade_unknown", "edge", f"the answer broke off: {error}", "see the log of causeway", EXIT_REFUSED)
    return _fail("upgrade_unknown", "edge", "causeway ended before it answered", "see its log", EXIT_REFUSED)


def _report(done: dict[str, Any]) -> None:
    for name in ("old", "new"):
        if process := done.get(name):
            print(f"{name}  version {printable(str(process['version']))}, process {process['pid']}")
    if why := done.get("control"):
        print(f"warning: the new process serves, but {printable(str(why))}", file=sys.stderr)


def _fail(code: str, side: str, why: str, step: str, status: int) -> None:
    print(f"error {code} ({side}): {printable(why)}\n  next   {step}", file=sys.stderr)
    raise typer.Exit(status)
