"""`causeway apps`: create, list, show, update and delete applications."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.apps_view import print_application, print_applications, print_created, print_dry_run
from causeway.cli.command import Group, GroupedCommand
from causeway.cli.documents import read_documents
from causeway.cli.draft import Body, changed_body, document_body, new_bodies, without
from causeway.cli.flags import ApplicationFlags, with_application_flags
from causeway.cli.lookup import choose_application, choose_zone
from causeway.cli.presets import PRESETS, PresetName
from causeway.cli.problems import Misuse
from causeway.cli.render import Format, Output, hint, print_json, say
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import Application, Zone
    from causeway.client import Client

app = typer.Typer(
    name="apps",
    help="Create, list, show, update and delete applications.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)

ZoneName = Annotated[
    str | None,
    typer.Option("--zone", metavar="NAME|ID", help="Zone; not needed when it is clear.", rich_help_panel="Application"),
]
File = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--file",
        metavar="FILE",
        help="JSON or TOML with API fields; - is JSON on stdin.",
        rich_help_panel="Application",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check it and show what would change; change nothing.", rich_help_panel="Output"),
]
Now = Annotated[
    bool,
    typer.Option(
        "--now", help="On edges of other machines at once, without the stages of a rollout.", rich_help_panel="Output"
    ),
]
Reference = Annotated[
    str, typer.Argument(metavar="APP", help="ID (or its beginning), hostname, or name.", show_default=False)
]


@app.command(cls=GroupedCommand)
@with_application_flags
def create(
    flags: ApplicationFlags,
    preset: Annotated[
        PresetName | None,
        typer.Option("--preset", help="Start from a well-known protocol.", rich_help_panel="Application"),
    ] = None,
    file: File = None,
    zone: ZoneName = None,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Serve a port: clients that reach it are carried to the origin.

    Answers once the application is stored and serving.

    \b
    causeway apps create --preset ssh --origin 10.0.0.5
    causeway apps create --dns mc.example.net --protocol tcp/25565 --origin 10.0.0.7:25565
    causeway apps create -f examples/game-udp-range.toml
    """
    if file is not None and preset is not None:
        raise Misuse("give -f or --preset, not both")
    documents = read_documents(file) if file else []
    with connect(url, token_file) as client:
        planned = _planned(client.zones(), zone, flags, preset, documents)
        made = _create_all(client, planned, is_dry_run=dry_run)
        if dry_run:
            print_dry_run([(None, application) for application in made], output, "create")
        elif output is Format.JSON:
            print_json(made[0] if len(made) == 1 else made)
        else:
            print_created(made, client.application_status(), PRESETS[preset].check if preset else None)


def _planned(
    zones: list[Zone],
    wanted: str | None,
    flags: ApplicationFlags,
    preset: PresetName | None,
    documents: list[Body],
) -> list[tuple[Zone, Body]]:
    if not documents:
        zone = choose_zone(zones, wanted, flags.dns)
        return [(zone, body) for body in new_bodies(flags, preset, zone["name"])]
    is_only_one = len(documents) == 1
    chosen = [choose_zone(zones, wanted or _zone_of(d), flags.dns or _host_of(d)) for d in documents]
    return [
        (zone, document_body(_bare(document), flags, zone["name"], is_only_one=is_only_one))
        for zone, document in zip(chosen, documents, strict=True)
    ]


def _create_all(client: Client, planned: list[tuple[Zone, Body]], *, is_dry_run: bool) -> list[Application]:
    made: list[tuple[Zone, Application]] = []
    try:
        for zone, body in planned:
            made.append((zone, client.create_application(zone["id"], body, is_dry_run=is_dry_run)))
    except BaseException:
        if not is_dry_run:
            _undo(client, made)
        raise
    return [application for _, application in made]


def _undo(client: Client, made: list[tuple[Zone, Application]]) -> None:
    """Take back what this command made, so that it did all or nothing."""
    from causeway.client import ClientError

    for zone, application in reversed(made):
        label = f"{application['dns']['name']} {application['protocol']} ({application['id']})"
        try:
            client.delete_application(zone["id"], application["id"])
            hint(f"undone: {label} is removed again, because the next application was not made")
        except ClientError as error:
            hint(f"left behind: {label}: {error}; remove it with `causeway apps delete {application['id']}`")


@app.command("list", cls=GroupedCommand)
def list_(
    zone: ZoneName = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List applications with their origins and state."""
    with connect(url, token_file) as client:
        found = all_applications(client, zone)
        if output is Format.JSON:
            print_json([application for _, application in found])
        elif found:
            print_applications([application for _, application in found], client.application_status())
        else:
            hint("no applications yet; make one with `causeway apps create --preset ssh --origin ADDR`")


@app.command(cls=GroupedCommand)
def show(
    reference: Reference,
    zone: ZoneName = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show one application: fields, listeners, counters."""
    with connect(url, token_file) as client:
        _, application = choose_application(all_applications(client, zone), reference)
        if output is Format.JSON:
            print_json(application)
        else:
            print_application(application, client.application_status())


@app.command(cls=GroupedCommand)
@with_application_flags
def update(
    reference: Reference,
    flags: ApplicationFlags,
    unset: Annotated[
        list[str] | None,
        typer.Option(
            "--unset",
            metavar="FIELD",
            help="Return a field to its default, like x_causeway.name.",
            rich_help_panel="Application",
        ),
    ] = None,
    file: File = None,
    zone: ZoneName = None,
    now: Now = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Change one application; what is not mentioned stays.

    With -f the file replaces it whole. Open connections are kept.

    \b
    causeway apps update mc.example.net --origin 10.0.0.8 --dry-run
    causeway apps update mc.example.net --proxy-protocol v2 --idle-timeout 30m
    """
    documents = read_documents(file) if file else []
    if len(documents) > 1:
        raise Misuse(f"-f {file} holds {len(documents)} applications, and update changes one")
    with connect(url, token_file) as client:
        chosen, before = choose_application(all_applications(client, zone), reference)
        if documents:
            body = document_body(_bare(documents[0]), flags, chosen["name"], is_only_one=True)
        else:
            body = changed_body(before, flags, chosen["name"])
        body = without(body, unset or [])
        after = client.replace_application(chosen["id"], before["id"], body, is_dry_run=dry_run, is_now=now)
        if dry_run:
            print_dry_run([(before, after)], output, "update")
        elif output is Format.JSON:
            print_json(after)
        else:
            print_dry_run([(before, after)], output, None)


@app.command(cls=GroupedCommand)
def delete(
    reference: Reference,
    zone: ZoneName = None,
    now: Now = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Delete one application; its port closes at once, its connections drain or close as it says."""
    with connect(url, token_file) as client:
        chosen, application = choose_application(all_applications(client, zone), reference)
        if dry_run:
            print_dry_run([(application, None)], output, "delete")
            return
        client.delete_application(chosen["id"], application["id"], is_now=now)
        if output is Format.JSON:
            print_json({"id": application["id"]})
        else:
            say(f"deleted {application['dns']['name']} {application['protocol']} ({application['id']})")


def all_applications(client: Client, wanted_zone: str | None) -> list[tuple[Zone, Application]]:
    zones = client.zones()
    chosen = [choose_zone(zones, wanted_zone)] if wanted_zone else zones
    return [(zone, application) for zone in chosen for application in client.applications(zone["id"])]


def _zone_of(document: Body) -> str | None:
    name = document.get("zone")
    return name if isinstance(name, str) else None


def _host_of(document: Body) -> str | None:
    dns = document.get("dns")
    name = dns.get("name") if isinstance(dns, dict) else dns
    return name if isinstance(name, str) else None


def _bare(document: Body) -> Body:
    return {key: value for key, value in document.items() if key != "zone"}
