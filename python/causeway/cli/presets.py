"""Ready-made beginnings of applications for well-known protocols. A table, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Preset:
    """One application per protocol; `check` is what to paste to see it work, with {host} and {port}."""

    protocols: tuple[str, ...]
    check: str
    extensions: Mapping[str, object] = field(default_factory=dict)


class PresetName(StrEnum):
    SSH = "ssh"
    MINECRAFT = "minecraft"
    RDP = "rdp"
    WHOIS = "whois"
    DNS = "dns"
    IPERF = "iperf"


PRESETS = {
    PresetName.SSH: Preset(("tcp/22",), "ssh -p {port} USER@{host}"),
    PresetName.MINECRAFT: Preset(("tcp/25565",), "mcstatus {host}:{port} status"),
    PresetName.RDP: Preset(("tcp/3389",), "xfreerdp /v:{host}:{port}"),
    PresetName.WHOIS: Preset(("tcp/43",), "whois -h {host} -p {port} NAME"),
    # A resolver takes a new source port per question: a minute of idle sessions would fill the table.
    PresetName.DNS: Preset(("udp/53", "tcp/53"), "dig @{host} -p {port} NAME", {"udp_idle_timeout_s": 10}),
    PresetName.IPERF: Preset(("tcp/5201", "udp/5201"), "iperf3 -c {host} -p {port}"),
}
