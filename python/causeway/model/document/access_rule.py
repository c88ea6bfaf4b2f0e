"""Read and show IP Access Rules as the v4 API has them; `x_causeway` holds what the original lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any

from causeway.model.access_rule import ALLOWED_MODES, AccessRule, Mode, Owner, Target
from causeway.model.application import Ports
from causeway.model.document.reading import Body, as_bool, as_choice, as_object, invalid, refuse_unknown, shown
from causeway.model.problem import Code, Problem
from causeway.model.timestamps import rfc3339

LONGEST_NOTES = 1000
_WRITABLE = ("configuration", "mode", "notes", "x_causeway")
_READ_ONLY = ("id", "allowed_modes", "created_on", "modified_on", "scope")
_EXTENSION = ("drop_established", "application", "ports", "dry_run", "expires_on")
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_rule(body: object, *, rule_id: str, owner: Owner, now: datetime) -> AccessRule:
    """A new rule.

    Raises:
        Problem: 10001 for a wrong value, 10012 for an unknown field, 19001 for what is not built.
    """
    fields = as_object(body, "")
    refuse_unknown(fields, _WRITABLE, "")
    target, value = _configuration(fields.get("configuration"))
    return AccessRule(
        id=rule_id,
        owner=owner,
        target=target,
        value=value,
        mode=_mode(fields.get("mode")),
        notes=_notes(fields.get("notes")),
        created_on=now,
        modified_on=now,
        **_extension(fields.get("x_causeway"), now),
    )


def change_rule(before: AccessRule, body: object, *, now: datetime) -> AccessRule:
    """The rule with the given fields replaced. Raises Problem as `parse_rule` does."""
    fields = as_object(body, "")
    refuse_unknown(fields, (*_WRITABLE, *_READ_ONLY), "")
    target, value = before.target, before.value
    if fields.get("configuration") is not None:
        target, value = _configuration(fields["configuration"])
    after = replace(
        before,
        target=target,
        value=value,
        mode=before.mode if fields.get("mode") is None else _mode(fields["mode"]),
        notes=_notes(fields["notes"]) if "notes" in fields else before.notes,
        **_extension(fields.get("x_causeway"), now),
    )
    return before if after == before else replace(after, modified_on=now)


def show_rule(rule: AccessRule) -> dict[str, object]:
    document: dict[str, object] = {
        "id": rule.id,
        "notes": rule.notes,
        "allowed_modes": [mode.value for mode in ALLOWED_MODES],
        "mode": rule.mode.value,
        "configuration": {"target": rule.target.value, "value": rule.value},
        "scope": {"id": rule.owner.id, "type": rule.owner.level.value},
        "created_on": rfc3339(rule.created_on),
        "modified_on": rfc3339(rule.modified_on),
    }
    if extension := show_extension(rule):
        document["x_causeway"] = extension
    return document


def show_extension(rule: AccessRule) -> dict[str, object]:
    """What was stated."""
    stated = {
        "drop_established": rule.drop_established,
        "application": rule.application,
        "ports": str(rule.ports) if rule.ports else None,
        "dry_run": rule.is_dry_run,
        "expires_on": rfc3339(rule.expires_on) if rule.expires_on else None,
    }
    return {name: value for name, value in stated.items() if value}


def canonical(target: Target, text: str) -> str:
    """The one spelling of a value.

    Raises:
        Problem: 10001, it is not one of this target.
    """
    if target is Target.ASN:
        number = text.upper().removeprefix("AS")
        if not re.fullmatch("[0-9]{1,10}", number) or not 0 < int(number) < 2**32:
            raise _wrong(f"{shown(text)} is no AS number such as AS64496")
        return f"AS{int(number)}"
    if target is Target.COUNTRY:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9]", text):
            raise _wrong(f"{shown(text)} is no country of two letters such as DE")
        return text.upper()
    if target is Target.LIST:
        return list_name(text, "/configuration/value")
    return _range(text) if target is Target.IP_RANGE else _address(target, text)


def list_name(value: object, pointer: str) -> str:
    """The name of a list.

    Raises:
        Problem: 10001, it can be none.
    """
    if not isinstance(value, str) or not re.fullmatch("[a-z0-9][a-z0-9_-]{0,49}", value):
        raise _wrong(
            f"{shown(value)} is no name of a list: 1 to 50 lower-case letters, digits, '_' and '-', such as "
            "known-scanners",
            pointer,
        )
    return value


def _address(target: Target, text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        hint = "; for a prefix use target 'ip_range'" if "/" in text else ""
        raise _wrong(f"{shown(text)} is no IP address{hint}") from None
    if (address.version == 6) is not (target is Target.IP6):
        other = "ip6" if address.version == 6 else "ip"
        raise _wrong(f"{shown(text)} is an IPv{address.version} address: use target '{other}'")
    if address.version == 6 and (address.scope_id or address in _MAPPED):
        raise _wrong(f"{shown(text)}: write IPv4 addresses as such with target 'ip', and no zone (%) in others")
    return str(address)


def _range(text: str) -> str:
    address, slash, length = text.partition("/")
    if not slash or not re.fullmatch("[0-9]{1,3}", length) or "%" in address:
        raise _wrong(f"{shown(text)} is no prefix such as 198.51.100.0/24 or 2001:db8::/32")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise _wrong(f"{shown(text)} is no prefix such as 198.51.100.0/24 or 2001:db8::/32") from None
    if network.network_address != ip_address(address):
        raise _wrong(f"{shown(text)} has bits set behind the prefix: did you mean {network}?")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise _wrong(f"{shown(text)} is IPv4 in IPv6 clothes: write the IPv4 prefix")
    return str(network)


def _configuration(value: object) -> tuple[Target, str]:
    fields = as_object(value, "/configuration")
    refuse_unknown(fields, ("target", "value"), "/configuration")
    target = as_choice(fields.get("target"), "/configuration/target", Target)
    text = fields.get("value")
    if not isinstance(text, str) or not 0 < len(text) <= 64:
        raise _wrong(f"/configuration/value must be text of 1 to 64 characters, not {shown(text)}")
    return target, canonical(target, text.strip())


def _mode(value: object) -> Mode:
    mode = as_choice(value, "/mode", Mode)
    if mode not in ALLOWED_MODES:
        raise Problem(
            Code.NOT_BUILT,
            f"mode {shown(mode.value)}: a challenge is a web page, and applications here carry any bytes; use "
            "'block' or 'whitelist'",
            pointer="/mode",
        )
    return mode


def _notes(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST_NOTES:
        raise _wrong(f"/notes must be text of at most {LONGEST_NOTES} characters, not {shown(value)}", "/notes")
    if "\0" in value:  # PostgreSQL has no such text
        raise _wrong("/notes has a NUL character: leave it out", "/notes")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong("/notes must be valid Unicode", "/notes") from None
    return value


def _extension(value: object, now: datetime) -> dict[str, Any]:
    """The fields of the rule that are given; `null` takes one back."""
    if value is None:
        return {}
    fields = as_object(value, "/x_causeway")
    refuse_unknown(fields, _EXTENSION, "/x_causeway")
    read: dict[str, Any] = {}
    if "drop_established" in fields:
        read["drop_established"] = as_bool(fields["drop_established"], "/x_causeway/drop_established")
    if "dry_run" in fields:
        read["is_dry_run"] = as_bool(fields["dry_run"], "/x_causeway/dry_run")
    if "application" in fields:
        read["application"] = _application(fields["application"])
    if "ports" in fields:
        read["ports"] = _ports(fields["ports"])
    if "expires_on" in fields:
        read["expires_on"] = _moment(fields, now)
    return read


def _application(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value)):
        raise invalid("/x_causeway/application", f"{shown(value)} is no id of an application")
    return value


def _ports(value: object) -> Ports | None:
    if value is None:
        return None
    found = re.fullmatch("([0-9]{1,5})(?:-([0-9]{1,5}))?", str(value)) if isinstance(value, str | int) else None
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last < 65_536:
        raise invalid("/x_causeway/ports", f"{shown(value)} is no port or range such as 22 or 1000-2000")
    return Ports(first, last)


def _moment(fields: Body, now: datetime) -> datetime | None:
    value, pointer = fields["expires_on"], "/x_causeway/expires_on"
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid(pointer, f"{shown(value)} is no time with a zone such as 2026-12-31T23:59:00Z")
    if moment <= now:
        raise invalid(pointer, f"{shown(value)} has passed: give a time to come")
    return moment.astimezone(UTC)


def _wrong(message: str, pointer: str = "/configuration/value") -> Problem:
    return Problem(Code.ACCESS_RULE, message, pointer=pointer)
