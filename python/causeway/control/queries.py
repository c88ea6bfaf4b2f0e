"""What people ask about the present state: read models, put together from control's memory and the edge's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from causeway.control.mitigation import state_of
from causeway.control.plane import Plane
from causeway.control.state import Piece, is_by_asn
from causeway.model.application import Address, Application
from causeway.model.edge import LOCAL, pop_of
from causeway.model.report import CarriedAt, Listener, PortRange, Reason, Report


def readiness(plane: Plane) -> str | None:
    """Why the newest state is not served, or nothing if it is."""
    if plane.unavailable:
        return plane.unavailable
    if plane.out_of_step:
        return plane.out_of_step
    if plane.nodes and plane.nodes.trouble:
        return plane.nodes.trouble
    report = plane.exchange.report()
    if report is None:
        return "the edge has not reported yet"
    return "the edge is draining" if report.is_draining else None


def following(plane: Plane) -> str | None:
    """Why this node takes no changes now, or nothing if it does."""
    if plane.unavailable:
        return plane.unavailable
    return plane.nodes.leader_text if plane.nodes and not plane.leads else None


def edge_states(plane: Plane) -> list[dict[str, object]]:
    """Each edge: what it serves and could not, totals, limits."""
    report = plane.exchange.fresh_report()
    return ([_edge(LOCAL, report)] if report and plane.site.has_edge else []) + _remote_edges(plane)


def pop_states(plane: Plane) -> list[dict[str, object]]:
    """Each PoP, by name: its edges, what each does, and what they have to do together."""
    reports = plane.reports()
    pops: dict[str, list[tuple[str, str]]] = {}
    for name, state in _states(plane).items():
        pops.setdefault(pop_of(name), []).append((name, state))

    def total(edges: list[tuple[str, str]], counter: str) -> int:
        return sum(reports[name].totals.get(counter, 0) for name, _ in edges if name in reports)

    return [
        {
            "name": pop,
            "edges": [{"name": name, "state": state} for name, state in edges],
            **{it: total(edges, it) for it in ("connections_open", "bytes_ingress", "bytes_egress")},
        }
        for pop, edges in sorted(pops.items())
    ]


def _states(plane: Plane) -> dict[str, str]:
    """Of each edge in a word."""
    report = plane.exchange.fresh_report() if plane.site.has_edge else None
    found = {LOCAL: "draining" if report.is_draining else "serving"} if report else {}
    for edge in plane.fleet.exchange.edges() if plane.fleet else ():
        told = edge.report()
        if edge.is_silent:
            found[edge.name] = "silent"
        elif told is not None and told.is_draining:
            found[edge.name] = "draining"
        else:
            found[edge.name] = "drained" if edge.name in plane.drained else "serving"
    return found


def _remote_edges(plane: Plane) -> list[dict[str, object]]:
    """Those of other machines, as they reported last."""
    if plane.fleet is None:
        return []
    found = []
    for edge in plane.fleet.exchange.edges():
        report, told, standing = edge.report(), edge.told, plane.fleet.standing(edge.name)
        if report is None or told is None:
            continue
        remote = {
            "addresses": told.site.edge_addresses,
            "software": told.software,
            "is_silent": edge.is_silent,
            "silent_s": round(edge.silent_s, 1),
            "is_drained": edge.name in plane.drained,
            "trouble": standing.trouble if standing else None,
            "is_held": standing.is_held if standing else False,
            "rollout": standing.rollout if standing else None,
        }
        found.append({**_edge(edge.name, report), "remote": remote})
    return found


def _edge(name: str, report: Report) -> dict[str, object]:
    return {
        "name": name,
        "version": report.version,
        "content": report.content,
        "is_draining": report.is_draining,
        "uptime_s": report.uptime_ms / 1000,
        "workers": report.workers,
        "workers_replaced_total": report.workers_replaced_total,
        "refused": msgspec.to_builtins(report.refused),
        "totals": report.totals,
        "open_files": msgspec.to_builtins(report.open_files),
        "flow_path": msgspec.to_builtins(report.flow_path),
        "detections": msgspec.to_builtins(report.detections),
        "guard": msgspec.to_builtins(report.guard),
        "mitigation": _mitigation(report),
        "anycast": msgspec.to_builtins(report.anycast),
        "memory": msgspec.to_builtins(report.memory),
        "port_pressure": msgspec.to_builtins(report.port_pressure),
        "overlay": msgspec.to_builtins(report.overlay),
        "events_lost": report.events_lost,
        "rejected_snapshots": report.rejected_snapshots,
    }


def _mitigation(report: Report) -> dict[str, object]:
    state = state_of(report)
    return {
        "is_enabled": state.is_enabled,
        "is_attached": state.is_attached,
        "missing": state.missing,
        "rules": len(state.rules),
        "holds": len(state.holds),
        "attacks": sum(1 for attack in report.attacks if attack.ended_unix_ms is None),
    }


def control_state(plane: Plane) -> dict[str, object] | None:
    """Which control nodes there are, and which of them leads; nothing where there are no others."""
    nodes = plane.nodes
    if nodes is None:
        return None
    seen, lease = nodes.standing, nodes.leader
    return {
        "node": nodes.name,
        "leads": nodes.term is not None,
        "leader": lease.holder if lease else None,
        "leader_url": lease.url if lease else None,
        "term": seen.lease.token if seen else None,
        "trouble": nodes.trouble,
        "nodes": [
            {
                "name": node.name,
                "url": node.url,
                "silent_s": round(node.silent_s, 1),
                "is_connected": node.is_connected,
                "software": node.software,
            }
            for node in (seen.nodes if seen else ())
        ],
    }


def course_state(plane: Plane) -> dict[str, object] | None:
    """What is on its way to edges of other machines, or was halted; nothing is usual."""
    course = plane.course
    if plane.fleet is None or not course.holds:
        return None
    rollout = course.rollout
    return {
        "open": {"number": rollout.number, "stage": rollout.stage, "stages": len(rollout.sizes)} if rollout else None,
        "halted": sorted(course.halted),
        "waiting": sum(1 for hold in course.holds.values() if hold.waits),
    }


def application_states(plane: Plane) -> list[dict[str, object]]:
    """Each application with its listeners on this machine's edge, and the counters of all edges.

    One that has no address on this machine: with its listeners on the others.
    """
    report = plane.exchange.fresh_report()
    counters = _counters(plane.reports().values())
    carriers = {(seen.application, seen.address): seen for seen in report.carriers} if report else {}
    refused: dict[tuple[str, str], list[Listener]] = {}
    for listener in report.refused if report else ():
        refused.setdefault((listener.application, listener.address), []).append(listener)
    return [
        {
            "id": piece.application.id,
            "zone_id": piece.application.zone_id,
            "name": piece.application.extension.name,
            "dns": piece.application.dns.name,
            "protocol": piece.application.protocol,
            "carrier": _carrier([carriers.get((piece.application.id, str(address))) for address in piece.addresses]),
            "listeners": [
                msgspec.to_builtins(_carried(listener, carriers.get((piece.application.id, str(address)))))
                for address in piece.addresses
                for listener in _listeners(piece, address, refused.get((piece.application.id, str(address)), []))
            ]
            or [msgspec.to_builtins(listener) for listener in _listeners_elsewhere(plane, piece)],
            "unserved": piece.unserved,
            "notice": notice_of(plane, piece.application),
            "counters": counters.get(piece.application.id, {}),
        }
        for piece in list(plane.pieces.values())
    ]


def _listeners_elsewhere(plane: Plane, piece: Piece) -> Iterator[Listener]:
    edges = plane.fleet.exchange.edges() if plane.fleet else []
    for address in piece.claimed:
        at = str(address)
        report = next((edge.report() for edge in edges if edge.told and at in edge.told.site.edge_addresses), None)
        if report is None:
            why = Reason("edge_unknown", "operator", f"no edge that has reported here has the address {at}")
            app, ports = (
                piece.application,
                PortRange(piece.application.edge_ports.first, piece.application.edge_ports.last),
            )
            yield Listener(app.id, app.transport, at, ports, "refused", why)
            continue
        refused = [seen for seen in report.refused if (seen.application, seen.address) == (piece.application.id, at)]
        yield from _listeners(piece, address, refused)


def _counters(reports: Iterable[Report]) -> dict[str, dict[str, int]]:
    """By application: of all edges together, since each has started."""
    sums: dict[str, Counter[str]] = {}
    for report in reports:
        for seen in report.applications:
            of = sums.setdefault(str(seen["id"]), Counter())
            of.update({name: int(value) for name, value in seen.items() if name != "id"})
    return {application: dict(of) for application, of in sums.items()}


def notice_of(plane: Plane, application: Application) -> str | None:
    """What of an application's wishes cannot be had now; nothing is usual."""
    if plane.asn is None and is_by_asn(application):
        return "limits by AS number hold for nobody: there is no data, give it with causeway geo update --asn FILE"
    return None


def notices(plane: Plane) -> list[str]:
    """The same of all applications, each sentence once."""
    found = (notice_of(plane, piece.application) for piece in list(plane.pieces.values()))
    return sorted({notice for notice in found if notice})


def _carrier(seen: list[CarriedAt | None]) -> str:
    """`kernel` or `engine`; `kernel and engine` if they differ by address."""
    names = {at.carrier if at else "engine" for at in seen}
    return " and ".join(sorted(names, reverse=True)) or "engine"


def _carried(listener: Listener, seen: CarriedAt | None) -> Listener:
    if seen is None or listener.state == "refused":
        return listener
    return msgspec.structs.replace(listener, carrier=seen.carrier, not_carried=seen.reason, judged=seen.judged)


def _listeners(piece: Piece, address: Address, refused: list[Listener]) -> Iterator[Listener]:
    """The application's ports on one address: the refused ranges as they are, what is between them as running."""
    application = piece.application

    def range_of(first: int, last: int) -> Listener:
        ports = PortRange(first, last)
        reason = Reason("port_in_use", "operator", piece.unserved) if piece.unserved else None
        return Listener(
            application.id, application.transport, str(address), ports, "refused" if reason else "running", reason
        )

    first = application.edge_ports.first
    for listener in sorted(refused, key=lambda found: found.ports.first):
        if listener.ports.first > first:
            yield range_of(first, listener.ports.first - 1)
        yield listener
        first = listener.ports.last + 1
    if first <= application.edge_ports.last:
        yield range_of(first, application.edge_ports.last)
