"""What an edge's guard sees in a second, and what it is to hold against it. Mirrors `guard/wire.rs`. Pure.

`Look` goes up from the engine, `Plan` down to it; an `Attack` is what people are told. Counters are cumulative and
exact, times are ms of the engine's monotonic clock unless a name says otherwise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Sensitivity = Literal["off", "low", "medium", "high"]
Action = Literal["drop", "pass", "watch"]
Range = tuple[int, int]  # both ends included
REST = "*"  # the application of what belongs to none: ICMP, other protocols, ports without a listener, later fragments


class Signals(msgspec.Struct, frozen=True):
    """What engine and fast path know of an application's flows; counts since the edge started."""

    opened: int = 0  # flows begun: SYNs carried or connections accepted, first datagrams of an address and port
    established: int = 0  # of them: handshake done by the client, or two-way
    refused: int = 0  # by rules or limits
    failed: int = 0  # the origin could not be reached or refused
    pressed: int = 0  # SYNs left to the stack's cookies, sessions that the engine had no time to begin
    open: int = 0  # now
    bytes: int = 0  # payload, both directions
    packets: int = 0  # both directions, of carried flows


class Guarded(msgspec.Struct, frozen=True):
    """Packets to one application that the guard judged, by verdict; `watched`: what would have become of them."""

    application: str  # `REST` for what comes to guarded addresses and belongs to no application
    protocol: Literal["tcp", "udp", "any"]
    packets: dict[str, int] = {}
    bytes: dict[str, int] = {}
    watched: dict[str, int] = {}
    signals: Signals = Signals()


class System(msgspec.Struct, frozen=True):
    """The machine's own symptoms; counts since it booted."""

    cookies_sent: int = 0  # TcpExt SyncookiesSent, Recv, Failed, ListenDrops of /proc/net/netstat
    cookies_taken: int = 0
    cookies_failed: int = 0
    listen_drops: int = 0
    queue_drops: int = 0  # /proc/net/softnet_stat, second column, all processors
    received_packets: int = 0  # of all guarded interfaces
    received_bytes: int = 0
    missed_packets: int = 0  # rx_dropped + rx_missed of them
    cpu_busy: float = 0.0  # 0 to 1, of all processors since the last look


class Sample(msgspec.Struct, frozen=True):
    at_ms: int
    application: str
    verdict: str
    length: int  # bytes of the whole frame
    frame: str  # its first bytes in hex, from the Ethernet header on, at most 128
    is_established: bool = False  # of a flow that is two-way: good traffic
    is_open: bool = False  # of a flow that somebody has asked for, perhaps not the source that it names
    rule: str | None = None  # that decided


class RuleCount(msgspec.Struct, frozen=True):
    """Of a rule in force: packets that it fitted, and how many of them were of open flows, which no rule drops."""

    id: str
    packets: int
    established: int


class Look(msgspec.Struct, frozen=True):
    at_ms: int
    is_attached: bool  # packets are judged by the kernel's guard now
    missing: str | None = None  # why they cannot be on this machine
    applications: list[Guarded] = []
    system: System = System()
    rules: list[RuleCount] = []
    samples: list[Sample] = []


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    at: int  # from the end of the TCP or UDP header on
    bytes: str  # hex, 1 to 16 bytes
    mask: str  # hex, as long


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is said has to hold."""

    protocol: int | None = None  # IP protocol number
    is_ipv6: bool | None = None
    source: str | None = None  # a prefix
    destination: str | None = None
    source_ports: Range | None = None
    destination_ports: Range | None = None
    length: Range | None = None  # of the packet from the IP header on
    hops: Range | None = None  # time to live
    flags: tuple[int, int] | None = None  # TCP: mask, value
    window: Range | None = None
    mss: Range | None = None  # of a SYN; 0: it says none
    fingerprint: int | None = None  # order of a SYN's options, as `causeway_bpf::guard::fingerprint` makes it
    has_zero_id: bool = False
    is_fragment: bool = False
    payload: Payload | None = None


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    application: str
    action: Action
    match: Match
    expires_ms: int | None = None  # monotonic; the kernel ends it by itself


class Rate(msgspec.Struct, frozen=True, omit_defaults=True):
    """What each source, a prefix, may send to an application; packets of established flows are not asked."""

    of: Literal["syns", "packets", "bytes"]
    ipv4: int  # prefix lengths
    ipv6: int
    per_s: int
    burst: int
    spares_returning: bool = False  # of all together: who comes back within seconds has as much again


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an application is guarded beyond its rules."""

    application: str
    cookies: bool = False  # SYNs are answered by cookies in front of everything; implies `state`
    state: bool = False  # TCP of no connection is dropped
    no_fragments: bool = False
    rates: list[Rate] = []  # at most 3


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that automatic mitigation asks for. Put in place as a whole; an empty one ends everything automatic."""

    is_watching: bool = False  # judge and sample packets although nothing is held: something is suspected
    sample_every: int = 0  # one packet in so many; 0: none
    holds: list[Hold] = []
    rules: list[Rule] = []


class PlanReport(msgspec.Struct, frozen=True):
    is_attached: bool
    refused: dict[str, str] = {}  # rule id, or application of a hold: why


class Attack(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attack on one application, from its first bad second to the last."""

    id: str  # 32 hex digits
    application: str
    kind: str  # spoofed_syn, syn, ack, rst, udp, amplification, fragments, icmp, protocol, carpet, connections, ...
    vector: str  # one line: what the packets have in common
    started_unix_ms: int
    ended_unix_ms: int | None = None  # none: it goes on
    detected_after_ms: int = 0
    mitigated_after_ms: int | None = None
    peak_packets_per_s: int = 0
    packets_dropped: int = 0
    packets_passed: int = 0
    rules: list[Rule] = []  # that were made against it
    evidence: list[str] = []  # hex of a few sampled frames
    false_positive_bound: float | None = None  # share of good packets, 95 % confidence; the rule of three
    good_samples: int = 0  # it was proven on


class RuleState(msgspec.Struct, frozen=True):
    """A rule that automatic mitigation has in force, or is watching before it is."""

    rule: Rule
    attack: str  # the id of the attack that it was made against
    made_unix_ms: int
    packets: int = 0  # that it fitted
    established: int = 0  # of them: of open flows, which it does not touch
    good_samples: int = 0  # none of these good packets fitted it
    false_positive_bound: float | None = None  # share of good packets at most, 95 % confidence


class MitigationState(msgspec.Struct, frozen=True):
    """What automatic mitigation does on an edge now."""

    is_enabled: bool
    is_attached: bool  # the kernel judges packets
    missing: str | None = None  # why it cannot on this machine
    rules: list[RuleState] = []
    holds: list[Hold] = []
    refused: dict[str, str] = {}  # by the engine: rule id, or application of a hold: why


decode_look = msgspec.json.Decoder(Look).decode
decode_plan = msgspec.json.Decoder(Plan).decode
decode_plan_report = msgspec.json.Decoder(PlanReport).decode
