"""`causeway rollouts`: changes on their way to edges of other machines; and back, where they did harm."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.render import (
    Format,
    Output,
    duration_text,
    hint,
    print_fields,
    print_json,
    print_table,
    say,
)
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import Rollout

app = typer.Typer(
    name="rollouts",
    help="List changes that go to edges of other machines in stages, and act on them.",
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
)
_WORDS = {"rolled_back": "rolled back"}
_NAMED = 3  # changes in a line

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As listed.", show_default=False)]


@app.callback()
def list_(
    context: typer.Context,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List rollouts, the newest first."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, token_file) as client:
        found = client.rollouts()
    if output is Format.JSON:
        print_json(found)
    elif found:
        print_table(
            ("ROLLOUT", "STATE", "STAGE", "EDGES", "BEGAN", "TOOK", "CHANGES", "REASON"), [_row(one) for one in found]
        )
    else:
        hint("no rollouts yet: what is new goes to all edges at once, what is changed or deleted in stages")


@app.command(cls=GroupedCommand)
def show(number: Number, output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """Show one: its changes, which edges have been given it, and why it was halted."""
    with connect(url, token_file) as client:
        found = client.rollout(number)
    if output is Format.JSON:
        print_json(found)
        return
    print_fields(
        (
            ("rollout", f"{found['number']}, {state_text(found)}"),
            ("began", f"{_time_text(found['began_unix_ms'])}{_took(found)}"),
            ("edges", ", ".join(found["edges"]) or "none"),
            *(("reason", reason) for reason in (found["reason"],) if reason),
            *(("change", f"{one['name']} {one['how']} ({one['application_id']})") for one in found["changes"]),
        )
    )
    if found["state"] == "halted":
        hint(f"take it back:  causeway rollouts rollback {number}")
        hint(f"try it again:  causeway rollouts resume {number}")


@app.command(cls=GroupedCommand)
def resume(number: Number, output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """Have a halted rollout tried again, from its first stage, as a new one."""
    with connect(url, token_file) as client:
        found = client.resume_rollout(number)
    if output is Format.JSON:
        print_json(found)
        return
    say(f"what rollout {number} is about is tried again", style="green")


@app.command(cls=GroupedCommand)
def rollback(number: Number, output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """Make the applications of an open or halted rollout what they were, here and on every edge."""
    with connect(url, token_file) as client:
        back = client.roll_back(number)
    if output is Format.JSON:
        print_json({"number": number, "applications": back})
        return
    say(f"{_count(back)} what {'they were' if len(back) != 1 else 'it was'}", style="green")


@app.command(cls=GroupedCommand)
def push(
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="NUMBER",
            min=1,
            help="Of a rollout, a halted one too; else all but halted ones.",
            show_default=False,
        ),
    ] = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Bring changes to all edges at once, without stages: for an emergency, or when you know better."""
    with connect(url, token_file) as client:
        pushed = client.push_rollouts(number)
    if output is Format.JSON:
        print_json({"applications": pushed})
        return
    say(f"{_count(pushed)} on the way to all edges" if pushed else "nothing was under way", style="green")


def state_text(rollout: Rollout) -> str:
    if rollout["state"] == "open":
        return f"stage {rollout['stage']} of {rollout['stages']}"
    return _WORDS.get(rollout["state"], rollout["state"])


def _row(rollout: Rollout) -> tuple[str, ...]:
    names = [f"{one['name']} {one['how']}" for one in rollout["changes"][:_NAMED]]
    more = [f"{len(rollout['changes']) - _NAMED} more"] if len(rollout["changes"]) > _NAMED else []
    return (
        str(rollout["number"]),
        _WORDS.get(rollout["state"], rollout["state"]),
        f"{rollout['stage']}/{rollout['stages']}",
        str(len(rollout["edges"])),
        _time_text(rollout["began_unix_ms"]),
        _took(rollout).removeprefix(", took ") or "-",
        ", ".join([*names, *more]),
        rollout["reason"] or "",
    )


def _count(applications: list[str]) -> str:
    return f"{len(applications)} application{'s are' if len(applications) != 1 else ' is'}"


def _time_text(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _took(rollout: Rollout) -> str:
    ended = rollout["ended_unix_ms"]
    return f", took {duration_text((ended - rollout['began_unix_ms']) / 1000)}" if ended else ""
