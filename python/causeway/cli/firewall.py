"""`causeway firewall`, `causeway geo`, `causeway why-blocked`: who is let in, by which rule, and why not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cli.command import Group, GroupedCommand
from causeway.cli.lookup import choose_application, choose_zone, short_id
from causeway.cli.problems import Missing, Misuse
from causeway.cli.render import Format, Output, hint, print_json, print_table, say
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import Explained, FirewallRule
    from causeway.client import Client

app = typer.Typer(
    name="firewall",
    help="Rules about which clients are let in, and lists of prefixes.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)
geo = typer.Typer(
    name="geo",
    help="Databases that tell countries and AS numbers.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)
alone = typer.Typer(rich_markup_mode=None)


class Action(StrEnum):
    BLOCK = "block"
    ALLOW = "allow"


MODES = {Action.BLOCK: "block", Action.ALLOW: "whitelist"}


@app.command("list", cls=GroupedCommand)
def list_(output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """List the rules of all zones and accounts, and how often each has decided."""
    with connect(url, token_file) as client:
        rules = client.firewall_rules()
        names = {zone["id"]: zone["name"] for zone in client.zones()}
    if output is Format.JSON:
        print_json(rules)
    elif rules:
        rows = [
            (
                rule["id"],
                _action(rule),
                _target(rule),
                names.get(rule["scope"]["id"], "all zones") + _narrowed(rule),
                str(rule["x_causeway"]["hits"]),
                rule["notes"] or "-",
            )
            for rule in rules
        ]
        print_table(("ID", "ACTION", "CLIENTS", "WHERE", "HITS", "NOTES"), rows)
    else:
        hint("no rules yet; make one with `causeway firewall add 198.51.100.0/24`")


@app.command(cls=GroupedCommand)
def add(
    clients: Annotated[
        str,
        typer.Argument(
            metavar="CLIENTS",
            help="Address, prefix, AS64496, country like DE, or list:NAME.",
            show_default=False,
        ),
    ],
    action: Annotated[Action, typer.Option("--action", help="What becomes of them.", show_default=True)] = Action.BLOCK,
    zone: Annotated[str | None, typer.Option("--zone", metavar="ZONE", help="Name or ID; else the only one.")] = None,
    account: Annotated[bool, typer.Option("--account", help="For all zones.")] = False,
    application: Annotated[
        str | None, typer.Option("--app", metavar="APP", help="For this application alone; see `causeway apps list`.")
    ] = None,
    ports: Annotated[str | None, typer.Option("--ports", metavar="PORTS", help="For these edge ports alone.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="What it is for.")] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="When it ends, like 2026-12-31T23:59:00Z.")
    ] = None,
    drop_established: Annotated[
        bool, typer.Option("--drop-established", help="End live connections that it blocks.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count whom it would concern.")] = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Make a rule. It holds when this command has ended."""
    if account and (zone or application):
        raise Misuse("a rule is for all zones (--account), for a zone or for an application, not for several of them")
    target, value = read_clients(clients)
    with connect(url, token_file) as client:
        scope, application_id = _scope(client, zone, application, is_account=account)
        extension: dict[str, object] = {
            "application": application_id,
            "ports": ports,
            "expires_on": expires,
            "drop_established": drop_established or None,
            "dry_run": dry_run or None,
        }
        rule = client.create_firewall_rule(
            {
                "scope": scope,
                "configuration": {"target": target, "value": value},
                "mode": MODES[action],
                "notes": notes or "",
                "x_causeway": {name: given for name, given in extension.items() if given is not None},
            }
        )
    if output is Format.JSON:
        print_json(rule)
    else:
        say(f"{_action(rule)} {_target(rule)} ({rule['id']})", style="green")


@app.command(cls=GroupedCommand)
def remove(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="ID, or what it is about.", show_default=False)],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a rule. Whom it blocked is let in when this command has ended."""
    with connect(url, token_file) as client:
        rules = client.firewall_rules()
        about = read_clients(rule)[1].lower()
        found = [known for known in rules if rule == known["id"] or about == known["configuration"]["value"].lower()]
        if not found:
            raise Missing(f"there is no rule {rule!r}; see `causeway firewall list`")
        if len(found) > 1:
            raise Misuse(f"{len(found)} rules are about {rule!r}; give an ID from `causeway firewall list`")
        client.delete_firewall_rule(found[0]["id"])
    if output is Format.JSON:
        print_json({"id": found[0]["id"]})
    else:
        say(f"deleted the rule about {_target(found[0])} ({found[0]['id']})")


@app.command("import", cls=GroupedCommand)
def import_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the list, like scanners.", show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One prefix in a line.", show_default=False)],
    join: Annotated[bool, typer.Option("--join", help="Take prefixes within others, too.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Take addresses that are not public, too.")] = False,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Make a list of prefixes, or replace it as a whole; rules name it as list:NAME."""
    content = _read(file)
    query = {**({"overlaps": "join"} if join else {}), **({"private": "allow"} if private else {})}
    with connect(url, token_file) as client:
        made = client.put_firewall_list(name, content, query)
    if output is Format.JSON:
        print_json(made)
    else:
        counts = made.get("prefixes")
        ipv4, ipv6 = (counts["ipv4"], counts["ipv6"]) if isinstance(counts, dict) else (0, 0)
        say(f"list {name}: {ipv4:,} IPv4 and {ipv6:,} IPv6 prefixes", style="green")
        hint(f"block them:  causeway firewall add list:{name}")


@geo.command(cls=GroupedCommand)
def update(
    country: Annotated[
        Path | None, typer.Option("--country", metavar="FILE", help="MMDB, or CSV with PREFIX,COUNTRY in a line.")
    ] = None,
    asn: Annotated[
        Path | None, typer.Option("--asn", metavar="FILE", help="MMDB, or CSV with PREFIX,ASN or FIRST,LAST,ASN.")
    ] = None,
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take databases of your own into use; rules by country and AS number hold by them at once."""
    files = [(target, file) for target, file in (("country", country), ("asn", asn)) if file]
    if not files:
        raise Misuse("say which file: --country FILE, --asn FILE or both")
    contents = [(target, file.name, _read(file)) for target, file in files]
    with connect(url, token_file) as client:
        made = [client.put_firewall_database(*content) for content in contents]
    if output is Format.JSON:
        print_json(made)
    else:
        for one in made:
            noun = "countries" if one["target"] == "country" else "AS numbers"
            say(f"{one['target']}: {one['keys']:,} {noun} in {one['prefixes']:,} prefixes", style="green")


@alone.command("why-blocked", cls=GroupedCommand)
def why_blocked(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Of a client.", show_default=False)],
    output: Output = Format.TABLE,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Say for each application whether this client is let in, and which rule decides."""
    with connect(url, token_file) as client:
        told = client.explain_address(address)
    if output is Format.JSON:
        print_json(told)
        return
    rows = [
        (one["dns"], one["protocol"], short_id(one["id"]), _verdict(one), _why(one)) for one in told["applications"]
    ]
    if rows:
        print_table(("NAME", "PROTOCOL", "ID", "CLIENT IS", "WHY"), rows)
    else:
        hint("there are no applications")


def read_clients(text: str) -> tuple[str, str]:
    """Which target and value of a rule the operator means; the server says if it is none."""
    lowered = text.lower()
    if lowered.startswith("list:"):
        return "list", text[5:]
    if lowered.startswith("as") and lowered[2:].isdigit():
        return "asn", text
    if len(text) == 2 and text.isalpha():
        return "country", text.upper()
    if "/" in text:
        return "ip_range", text
    return ("ip6" if ":" in text else "ip"), text


def _scope(
    client: Client, zone: str | None, application: str | None, *, is_account: bool
) -> tuple[dict[str, str], str | None]:
    if is_account:
        accounts = client.accounts()
        if len(accounts) != 1:
            raise Misuse(f"there are {len(accounts)} accounts: use the v4 API to say which")
        return {"type": "organization", "id": accounts[0]["id"]}, None
    zones = client.zones()
    if application is None:
        return {"type": "zone", "id": choose_zone(zones, zone)["id"]}, None
    asked = [choose_zone(zones, zone)] if zone else zones
    held, found = choose_application(
        [(one, each) for one in asked for each in client.applications(one["id"])], application
    )
    return {"type": "zone", "id": held["id"]}, found["id"]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Misuse(f"{file}: {error.strerror}") from error


def _action(rule: FirewallRule) -> str:
    action = "allow" if rule["mode"] == "whitelist" else rule["mode"]
    return f"{action} (dry run)" if rule["x_causeway"].get("dry_run") else action


def _target(rule: FirewallRule) -> str:
    configuration = rule["configuration"]
    return f"list:{configuration['value']}" if configuration["target"] == "list" else configuration["value"]


def _narrowed(rule: FirewallRule) -> str:
    extension = rule["x_causeway"]
    application, ports = extension.get("application"), extension.get("ports")
    told = [f"app {short_id(str(application))}"] if application else []
    told += [f"ports {ports}"] if ports else []
    return "".join(f", {part}" for part in told)


def _verdict(one: Explained) -> str:
    if any(rule["action"] == "drop" and rule.get("by") == "address" for rule in one["automatic"]["rules"]):
        return "dropped"
    return "banned" if one["banned_s"] else "blocked" if one["verdict"] == "block" else "let in"


def _why(one: Explained) -> str:
    from causeway.cli.attacks_view import automatic_texts

    return "; ".join([_by_rules(one), *automatic_texts(one["automatic"])])


def _by_rules(one: Explained) -> str:
    if one["banned_s"] and one.get("detected"):
        found = str(one["detected"]).replace("_", " ")
        return f"a {found} from its address was detected (x_causeway.mitigation); {one['banned_s']:.0f} s are left"
    if one["banned_s"]:
        return f"it went over a limit (x_causeway.limits); {one['banned_s']:.0f} s are left"
    if not one["ip_firewall"]:
        return "its firewall is off (ip_firewall)"
    known = [f"AS{one['asn']}"] if one["asn"] else []
    known += [one["country"]] if one["country"] else []
    origin = f" ({', '.join(known)})" if known else ""
    rule = one["rule"]
    if rule is None:
        trial = "".join(f"; rule {found['id']} is on trial (dry_run) and would" for found in one["dry_run"])
        return f"no rule is about it{origin}{trial}"
    notes = f": {rule['notes']}" if rule["notes"] else ""
    return f"rule {rule['id']} about {_target(rule)}{origin}{notes}"
