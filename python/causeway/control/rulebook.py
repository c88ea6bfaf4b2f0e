"""What applications ask of the firewall and of databases, compiled, and with this machine's edge before it is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection

from causeway.control.state import is_by_asn
from causeway.exchange.bus import ControlSide
from causeway.model.access_rule import Target, compile_rules
from causeway.model.application import Application
from causeway.model.snapshot import encode_firewall
from causeway.store import access_rules, firewall_lists
from causeway.store.database import StoreError


def firewalls_of(
    connection: Connection, exchange: ControlSide, asking: Sequence[Application], known: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Those that applications name, by zone; compiled only where one is not `known`."""
    zones = sorted({application.zone_id for application in asking if application.ip_firewall})
    if all(zone in known for zone in zones):
        return {zone: known[zone] for zone in zones}
    lists = {found.name: found.digest for found in firewall_lists.every(connection)}
    databases = {found.target: found.digest for found in firewall_lists.databases(connection)}
    made: dict[str, bytes] = {}
    for zone in zones:
        scopes = compile_rules(access_rules.of_zone(connection, zone))
        rules = [rule for scope in scopes for rule in scope.rules]
        used = {target: digest for target, digest in databases.items() if target in {r.target for r in rules}}
        named = {lists[rule.value] for rule in rules if rule.target is Target.LIST} | set(used.values())
        _provide(connection, exchange, named)
        made[zone] = encode_firewall(zone, scopes, lists, used)
    return made


def asn_of(connection: Connection, exchange: ControlSide, asking: Sequence[Application]) -> str | None:
    """The database of AS numbers, if an application is limited by them and there is one."""
    if not any(map(is_by_asn, asking)):
        return None
    found = [found.digest for found in firewall_lists.databases(connection) if found.target is Target.ASN]
    _provide(connection, exchange, found)
    return found[0] if found else None


def _provide(connection: Connection, exchange: ControlSide, digests: Iterable[str]) -> None:
    """Let the edge have what the rules name, if it has not."""
    for digest in digests:
        if exchange.has_blob(digest):
            continue
        found = firewall_lists.content(connection, digest)
        if found is None:
            raise StoreError(f"the content {digest} of a list is not in the database: import the list again")
        kind, content = found
        exchange.put_blob(kind, content, overlaps=True, private=True)
