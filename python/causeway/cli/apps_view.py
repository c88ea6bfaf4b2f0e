"""How applications look: the list, one in full, one just made, and what a change changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from causeway.cli.diff import changes, flatten
from causeway.cli.lookup import own_name, short_id
from causeway.cli.render import (
    Format,
    bytes_text,
    hint,
    ports_text,
    print_changes,
    print_fields,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from causeway.answers import Application, ApplicationStatus, Listener

Pair = tuple["Application | None", "Application | None"]

BYTE_COUNTERS = ("bytes_ingress", "bytes_egress")


def origins_text(application: Application) -> str:
    """Return the origins in the order they are tried."""
    if direct := application.get("origin_direct"):
        return ", ".join(uri.partition("://")[2] for uri in direct)
    name = str(application.get("origin_dns", {}).get("name", "-"))
    port = application.get("origin_port")
    return f"{name}:{port}" if port is not None else name


def print_applications(applications: Sequence[Application], status: Sequence[ApplicationStatus]) -> None:
    by_id = {item["id"]: item for item in status}
    rows, styles = [], []
    for application in applications:
        live = by_id.get(application["id"])
        listeners = live["listeners"] if live else []
        state = state_text(listeners)
        rows.append(
            (
                short_id(application["id"]),
                application["dns"]["name"],
                application["protocol"],
                origins_text(application),
                state,
                str(live["counters"].get("connections_open", 0)) if live else "-",
                own_name(application) or "",
            )
        )
        styles.append("red" if "refused" in state else "")
    columns = ("ID", "HOSTNAME", "PROTOCOL", "ORIGIN", "STATE", "OPEN", "NAME")
    shown = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    print_table(columns[:shown], [row[:shown] for row in rows], styles)


def state_text(listeners: Sequence[Listener]) -> str:
    """Return running, refused or partly refused for one application."""
    refused = sum(1 for listener in listeners if listener["state"] == "refused")
    if not listeners:
        return "not serving"
    if not refused:
        return "running"
    return "refused" if refused == len(listeners) else "partly refused"


def address_text(listener: Listener) -> str:
    address = f"[{listener['address']}]" if ":" in listener["address"] else listener["address"]
    return f"{address}:{ports_text(listener['ports']['first'], listener['ports']['last'])}"


def print_application(application: Application, status: Sequence[ApplicationStatus]) -> None:
    say(f"{application['dns']['name']} {application['protocol']}", style="bold")
    print_fields(
        flatten({key: value for key, value in application.items() if key not in ("dns", "protocol")}),
        indent=2,
    )
    live = next((item for item in status if item["id"] == application["id"]), None)
    if live is None:
        return
    if notice := live.get("notice"):
        print_fields((("notice", notice),), indent=2)
    say("listeners", style="bold")
    print_fields(
        (
            (f"{address_text(listener)}/{listener['protocol']}", _listener_text(listener))
            for listener in live["listeners"]
        ),
        indent=2,
    )
    say("since the edge started", style="bold")
    print_fields(
        (
            (
                name.removesuffix("_total").replace("_", " "),
                bytes_text(count) if name in BYTE_COUNTERS else str(count),
            )
            for name, count in live["counters"].items()
        ),
        indent=2,
    )


def _listener_text(listener: Listener) -> str:
    reason = listener.get("reason")
    if reason:
        return f"{listener['state']}: {reason['message']}"
    why = listener.get("not_carried")
    text = f"running, by the {listener.get('carrier', 'engine')}" + (f": {why['message']}" if why else "")
    return text + _judged_text(listener)


def _judged_text(listener: Listener) -> str:
    judged = listener.get("judged")
    if not judged:
        return ""
    if judged["by"] == "kernel":
        return "; rules and limits act in the kernel's guard"
    why = judged["reason"]
    is_said = not why or why == listener.get("not_carried")
    return "; the engine judges clients" + ("" if is_said or not why else f": {why['message']}")


def print_created(applications: Sequence[Application], status: Sequence[ApplicationStatus], check: str | None) -> None:
    """Say what serves where, and what to paste to see it work."""
    by_id = {item["id"]: item for item in status}
    for application in applications:
        live = by_id.get(application["id"])
        say(f"created {application['dns']['name']} {application['protocol']}", style="green")
        serving = ", ".join(address_text(listener) for listener in live["listeners"]) if live else "unknown"
        print_fields((("id", application["id"]), ("serving", serving), ("origin", origins_text(application))), indent=2)
    if not applications:
        return
    live = by_id.get(applications[0]["id"])
    if check and live and live["listeners"]:
        first = live["listeners"][0]
        hint(f"try it:  {check.format(host=first['address'], port=first['ports']['first'])}")
    hint(f"watch:   causeway tail {applications[0]['dns']['name']}")


def print_dry_run(pairs: Sequence[Pair], output: Format, verb: str | None) -> None:
    """Show the difference of each pair; without a verb the change has been made."""
    if output is Format.JSON:
        documents = [
            {
                "before": before,
                "after": after,
                "changes": [
                    {"field": change.field, "before": change.before, "after": change.after}
                    for change in changes(before, after)
                ],
            }
            for before, after in pairs
        ]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for before, after in pairs:
        subject = after or before
        if subject is None:
            continue
        found = changes(before, after)
        label = f"{subject['dns']['name']} {subject['protocol']}"
        if not found:
            say(f"{label}: nothing would change" if verb else f"{label}: nothing changed")
            continue
        say(f"would {verb} {label}" if verb else f"updated {label}", style="bold" if verb else "green")
        print_changes(found)
    if verb:
        hint("dry run: nothing was changed")
