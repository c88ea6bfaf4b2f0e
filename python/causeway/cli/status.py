"""`causeway status`: is it up, what does it carry, what was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from causeway.cli.apps_view import address_text
from causeway.cli.command import GroupedCommand
from causeway.cli.edges import content_text
from causeway.cli.lookup import short_id
from causeway.cli.render import (
    Format,
    Output,
    bytes_text,
    duration_text,
    print_fields,
    print_json,
    print_table,
    say,
)
from causeway.cli.session import TokenFile, Url, connect

if TYPE_CHECKING:
    from causeway.answers import (
        AnycastStatus,
        ControlNode,
        ControlStatus,
        Course,
        EdgeStatus,
        FlowPath,
        Guard,
        GuardedInterface,
        MitigationSummary,
        PortPressure,
        Status,
    )

app = typer.Typer(rich_markup_mode=None)
_SILENT_S = 5.0  # control nodes say each second that they are there


@app.command(cls=GroupedCommand)
def status(output: Output = Format.TABLE, url: Url = None, token_file: TokenFile = None) -> None:
    """Show the server, its edges, and listeners that were refused."""
    with connect(url, token_file) as client:
        answer = client.status()
        if output is Format.JSON:
            print_json(answer)
        else:
            _print_status(client.url, answer)


def _print_status(url: str, answer: Status) -> None:
    ready = "ready" if answer["ready"] else f"not ready: {answer.get('reason') or 'the edge is behind'}"
    print_fields(
        (
            (
                "server",
                f"{url}  causeway {answer['version']}, up {duration_text(answer['uptime_s'])}, {ready}",
            ),
            ("applications", str(answer["applications"])),
            *([("control", control_text(nodes))] if (nodes := answer.get("control")) else []),
            *([("rollout", course_text(course))] if (course := answer.get("rollouts")) else []),
            *(("notice", notice) for notice in answer.get("notices", ())),
        )
    )
    for edge in answer["edges"]:
        say("")
        say(f"edge {edge['name']}{_silence_text(edge)}", style="bold")
        print_fields(_edge_fields(edge), indent=2)
    refused = [listener for edge in answer["edges"] for listener in edge["refused"]]
    if refused:
        say("")
        say("refused listeners", style="bold red")
        print_table(
            ("APPLICATION", "LISTENER", "REASON"),
            [
                (
                    short_id(listener["application"]),
                    f"{address_text(listener)}/{listener['protocol']}",
                    (listener.get("reason") or {"message": "unknown"})["message"],
                )
                for listener in refused
            ],
        )


def course_text(course: Course) -> str:
    """What is on its way to edges of other machines, the halted first."""
    told = [f"{number} is halted: see causeway rollouts show {number}" for number in course["halted"]]
    if open_ := course["open"]:
        told.append(f"{open_['number']} is under way, stage {open_['stage']} of {open_['stages']}")
    if count := course["waiting"]:
        told.append(f"{count} changed application{'s wait' if count > 1 else ' waits'}")
    return "; ".join(told)


def control_text(told: ControlStatus) -> str:
    """Who leads, who else is there, and what is wrong."""
    leader = f"{told['leader']} leads ({told['leader_url']}, term {told['term']})" if told["leader"] else "nobody leads"
    others = [_node_text(node) for node in told["nodes"] if node["name"] not in (told["leader"], told["node"])]
    asked = [] if told["node"] == told["leader"] else [f"{told['node']} answers"]
    return "; ".join([leader, *asked, *others, *([told["trouble"]] if told["trouble"] else [])])


def _node_text(node: ControlNode) -> str:
    if node["silent_s"] > _SILENT_S:
        return f"{node['name']} silent for {duration_text(node['silent_s'])}"
    return f"{node['name']} stands by{'' if node['is_connected'] else ', without the exchange'}"


def _silence_text(edge: EdgeStatus) -> str:
    remote = edge.get("remote")
    return f" (silent for {duration_text(remote['silent_s'])})" if remote and remote["is_silent"] else ""


def _edge_fields(edge: EdgeStatus) -> list[tuple[str, str]]:
    totals, files, remote = edge["totals"], edge["open_files"], edge.get("remote")
    return [
        *([("addresses", ", ".join(remote["addresses"]))] if remote else []),
        *([("behind", remote["trouble"])] if remote and remote["trouble"] else []),
        ("snapshot", f"{edge['version']}, content {content_text(edge)}{', draining' if edge['is_draining'] else ''}"),
        (
            "connections",
            f"{totals.get('connections_open', 0)} open, {totals.get('connections_total', 0)} in all",
        ),
        (
            "bytes",
            f"{bytes_text(totals.get('bytes_ingress', 0))} from clients, "
            f"{bytes_text(totals.get('bytes_egress', 0))} to clients",
        ),
        (
            "trouble",
            f"{totals.get('connect_errors_total', 0)} origin errors, "
            f"{totals.get('filtered_total', 0)} filtered, "
            f"{totals.get('datagrams_dropped', 0)} datagrams dropped",
        ),
        ("open files", f"{files.get('used', 0)} of {files.get('limit', 0)}"),
        *([("fast path", _fast_path_text(path))] if (path := edge.get("flow_path")) else []),
        *([("guard", _guard_text(guard))] if (guard := edge.get("guard")) else []),
        *([("mitigation", mitigation_text(told))] if (told := edge.get("mitigation")) else []),
        *([("anycast", anycast_text(announced))] if (announced := edge.get("anycast")) else []),
        *([("memory", _memory_text(memory))] if (memory := edge.get("memory")) else []),
        *([("workers", _workers_text(edge))] if edge.get("workers_replaced_total") else []),
        *(("source ports", _ports_text(pressure)) for pressure in edge.get("port_pressure", ())),
    ]


def _fast_path_text(path: FlowPath) -> str:
    if not path["is_on"]:
        return f"off: {path['missing']}" if path["missing"] else "not needed"
    flows = f"{path['flows']} flows in the kernel, {path['opening']} opening, room for {path['capacity']}"
    hook = f" ({hook})" if (hook := path.get("hook")) else ""
    return f"on, {path['interfaces']} interfaces{hook}, {flows}"


_GUARD_DROPS = (
    "blocked", "rule_dropped", "rate", "cookie_failed", "out_of_state", "malformed", "illegal", "fragment", "port",
    "protocol", "banned",
)  # fmt: skip


def _guard_text(guard: Guard) -> str:
    if not guard["is_on"]:
        return f"off: {guard['missing']}"
    places = [_guarded_text(at) for at in guard["interfaces"]]
    drops = [f"{count} {name}" for name in _GUARD_DROPS if (count := guard["verdicts"].get(name, 0))]
    passed = sum(count for name, count in guard["verdicts"].items() if name not in _GUARD_DROPS)
    left_out = f", {guard['left_out']} listeners beyond its room" if guard["left_out"] else ""
    if guard["sessions_left_out"]:
        left_out += f", no room for {guard['sessions_left_out']} sessions"
    trouble = f", refused: {guard['missing']}" if guard["missing"] else ""
    dropped = f"dropped {', '.join(drops)}" if drops else "dropped none"
    return f"on ({', '.join(places) or 'no interface'}), {passed} packets passed, {dropped}{left_out}{trouble}"


def _guarded_text(at: GuardedInterface) -> str:
    if not at["mode"]:
        return f"{at['name']} not guarded: {at['reason']}"
    return f"{at['name']} {at['mode']}{', cookies by the stack' if at.get('cookies_by') == 'stack' else ''}"


def mitigation_text(told: MitigationSummary) -> str:
    if not told["is_enabled"]:
        return f"off: {told['missing']}" if told["missing"] else "off: switch it on with causeway mitigation on"
    if told["missing"]:
        return f"on, but nothing can be held off: {told['missing']}"
    judged = "the kernel judges packets" if told["is_attached"] else "the kernel judges packets when it has to"
    held = f"{told['rules']} rules, {told['holds']} applications held, " if told["rules"] or told["holds"] else ""
    return f"on, {judged}, {held}{told['attacks']} attacks going on"


def anycast_text(told: AnycastStatus) -> str:
    """Each prefix and how routers hear of it; and why they may not, which may be long."""
    said = []
    for at in told["prefixes"]:
        attributes = ", ".join([*at["communities"], *([f"MED {at['med']}"] if at["med"] is not None else [])])
        said.append(f"{at['prefix']} {at['state']}" + (f" ({attributes})" if attributes else ""))
    return ", ".join(said) + (f"; {told['trouble']}" if told["trouble"] else "")


def _memory_text(memory: dict[str, int]) -> str:
    full = ", new connections are refused" if memory["is_full"] else ""
    return f"{bytes_text(memory['used_bytes'])} of {bytes_text(memory['limit_bytes'])}{full}"


def _workers_text(edge: EdgeStatus) -> str:
    return f"{edge.get('workers', 0)}, {edge.get('workers_replaced_total', 0)} hung and replaced since the start"


def _ports_text(pressure: PortPressure) -> str:
    towards = pressure["origin"] or "all origins"
    used = f"{pressure['used']} of {pressure['available']} ({pressure['share']:.0%})"
    return f"{used} in use for {pressure['protocol']} to {towards}"
