"""`causeway tail`: connections as they happen, one line each.

Stays through a restart of the server; Ctrl-C ends it with exit code 0.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.apps import ZoneName, all_applications
from causeway.cli.command import GroupedCommand
from causeway.cli.escape import printable
from causeway.cli.lookup import choose_application
from causeway.cli.render import Format, Output, bytes_text, console, duration_text, hint
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import AttackTurn, Event, Lost
    from causeway.client import Client

BACK_OFF_FIRST_S = 0.5
BACK_OFF_MAX_S = 15.0
STYLES = {
    "connect": "green", "originError": "red", "clientFiltered": "yellow", "resolveOrigin": "red",
    "attackStarted": "bold red", "attackEnded": "bold",
}  # fmt: skip
NORMAL_CLOSE = 200

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=GroupedCommand)
def tail(
    reference: Annotated[
        str | None,
        typer.Argument(metavar="APP", help="Only this application: ID, hostname or name.", show_default=False),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for more, or end after what is kept.")
    ] = True,
    zone: ZoneName = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show connections as they come, go and fail."""
    with connect(url, token_file) as client, _ended_by_interrupt():
        try:
            chosen = None
            if reference:
                chosen = choose_application(all_applications(client, zone), reference)[1]["id"]
            show = _printer(output)
            for event in events(client, chosen, is_following=follow, sleep=time.sleep):
                show(event)
        except KeyboardInterrupt:
            return


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """End the process at Ctrl-C: as an exception it would be lost where it comes up in a destructor."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_: object) -> None:
    with suppress(RuntimeError, OSError):  # it may have come in the middle of a write
        sys.stdout.flush()
    os._exit(0)


def events(
    client: Client, application_id: str | None, *, is_following: bool, sleep: Callable[[float], None]
) -> Iterator[Event | AttackTurn | Lost]:
    """Yield events; a server that was there is waited for, for as long as it takes."""
    from causeway.client import Refused, Unreachable

    client.status()  # one that was never there is an error, not something to wait for
    back_off_s = BACK_OFF_FIRST_S
    while True:
        reason = "the server ended the stream"
        try:
            for event in client.tail(application_id, is_following=is_following):
                back_off_s = BACK_OFF_FIRST_S
                yield event
        except Unreachable as error:
            reason = error.reason
        except Refused as error:
            if error.status < 500:
                raise
            reason = str(error)
        if not is_following:
            return
        wait_s = back_off_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing
        hint(f"{reason}; trying again in {wait_s:.1f} s")
        sleep(wait_s)
        back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)


def line(event: Event | AttackTurn | Lost) -> str:
    """Return one event as a sentence in columns."""
    if event["kind"] == "lost":
        return f"{event['events']} events were not shown: they came faster than they could be read"
    at = datetime.fromtimestamp(event["time_ms"] / 1000).strftime("%H:%M:%S.%f")[:-3]
    name = event.get("application_name") or event["application"][:8]  # `*`: an attack on the whole edge
    if event["kind"] == "attackStarted" or event["kind"] == "attackEnded":
        return f"{at}  {event['kind']:<14}  {printable(str(name))}  {_attack(event)}"
    path = f"{event['client']} -> {event['edge']}/{event['protocol']}"
    if event.get("origin"):
        path += f" -> {event['origin']}"
    return f"{at}  {event['kind']:<14}  {printable(str(name))}  {printable(path)}{_outcome(event)}"


def _attack(turn: AttackTurn) -> str:
    what = f"{turn['attack'][:8]}  {printable(turn['attack_kind'])}: {printable(turn['vector'])}"
    is_over = turn["kind"] == "attackEnded"
    return f"{what}  {turn['packets_dropped']} dropped, {turn['packets_passed']} let in" if is_over else what


def _outcome(event: Event) -> str:
    if event["kind"] == "connect":
        return f"  rtt {event['client_rtt_ns'] / 1e6:.1f} ms" if event["client_rtt_ns"] else ""
    parts = []
    if event["kind"] == "disconnect":
        parts.append(f"in {bytes_text(event['client_bytes'])}, out {bytes_text(event['origin_bytes'])}")
        if began := event.get("connect_time_ms"):
            parts.append(duration_text(max(event["time_ms"] - began, 0) / 1000))
    if event["status"] not in (0, NORMAL_CLOSE):
        parts.append(f"{event['status']} {printable(event.get('message') or event.get('cause') or '')}".rstrip())
    return "  " + "  ".join(parts) if parts else ""


def _printer(output: Format) -> Callable[[Event | AttackTurn | Lost], None]:
    if output is Format.JSON:
        return lambda event: print(json.dumps(event), flush=True)  # ASCII: no control character gets out
    from rich.text import Text

    out = console()

    def show(event: Event | AttackTurn | Lost) -> None:
        out.print(Text(line(event), style=STYLES.get(event["kind"], "")), soft_wrap=True)

    return show
