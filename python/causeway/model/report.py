"""What an edge answers: which listeners a snapshot brought up, and what it has seen. Mirrors `report.rs`. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from causeway.model.mitigation import Attack, MitigationState


class PortRange(msgspec.Struct, frozen=True):
    first: int
    last: int


class Reason(msgspec.Struct, frozen=True):
    code: str
    side: str
    message: str


class Judged(msgspec.Struct, frozen=True):
    """Who says which clients come in, and why not the kernel before everything else."""

    by: Literal["kernel", "engine"]
    reason: Reason | None = None


class Listener(msgspec.Struct, frozen=True):
    application: str
    protocol: str
    address: str
    ports: PortRange
    state: Literal["running", "unchanged", "refused"]
    reason: Reason | None = None
    carrier: str = "engine"
    not_carried: Reason | None = None  # why not by the kernel
    judged: Judged | None = None  # none: no rules and no limits


class ApplyReport(msgspec.Struct, frozen=True):
    version: int
    outcome: Literal["applied", "unchanged"]
    listeners: list[Listener]
    not_kept: str | None = None

    def refusals(self, application_id: str) -> list[Listener]:
        return [found for found in self.listeners if found.application == application_id and found.state == "refused"]


class Event(msgspec.Struct, frozen=True):
    """One record of the flow log; times in milliseconds since 1970."""

    seq: int
    kind: str
    time_ms: int
    application: str
    flow: int
    protocol: str
    client: str
    edge: str
    origin: str | None
    connect_time_ms: int | None
    client_bytes: int
    origin_bytes: int
    client_rtt_ns: int
    origin_rtt_ns: int
    status: int
    cause: str
    message: str
    ip_firewall: bool = False
    client_matched_ip_firewall: str = "UNKNOWN"
    trace: str | None = None  # the same at every edge that the flow goes through; none: at one alone
    path: list[str] | None = None  # the edges after this one, [] for direct; none: it cannot go over others


class BlobReport(msgspec.Struct, frozen=True):
    """A list or database that the edge took in; what does not apply to its kind is 0."""

    digest: str
    bytes: int
    table_bytes: int
    ipv4: int = 0
    ipv6: int = 0
    prefixes: int = 0
    keys: int = 0


class RuleHits(msgspec.Struct, frozen=True):
    """How often a rule has decided since the edge started; `last_ms` is Unix time."""

    rule: str
    hits: int
    last_ms: int


class Explanation(msgspec.Struct, frozen=True):
    """What the rules say of one client: `verdict` is allow, block or none; `dry_run` are rules on trial."""

    verdict: str
    rule: str | None
    by: str | None
    dry_run: tuple[str, ...]
    asn: int | None
    country: str | None
    banned_ms: int = 0
    detected: str | None = None  # the attack that a ban is for, where no limit is


class OpenFiles(msgspec.Struct, frozen=True):
    used: int
    limit: int


class PortPressure(msgspec.Struct, frozen=True):
    """Source ports in use towards one origin; UDP ports are one pool for all origins."""

    protocol: str
    origin: str | None
    used: int
    available: int
    share: float


class Memory(msgspec.Struct, frozen=True):
    """Of the edge's cgroup; `is_full`: new flows are refused."""

    used_bytes: int
    limit_bytes: int
    is_full: bool


class CarriedAt(msgspec.Struct, frozen=True):
    """Who carries new flows of an application on one edge address; a reason says why not the kernel."""

    application: str
    address: str
    carrier: str
    reason: Reason | None = None
    judged: Judged | None = None


class FlowPath(msgspec.Struct, frozen=True):
    """The fast path; `missing` says why there is none, `hook` how packets come to it: `tcx`, before 6.6 `clsact`."""

    is_on: bool
    missing: str | None = None
    flows: int = 0
    opening: int = 0
    capacity: int = 0
    interfaces: int = 0
    hook: str | None = None
    verdicts: dict[str, int] = {}


class GuardedInterface(msgspec.Struct, frozen=True):
    """`native`: packets are judged in the driver; `generic`: behind it. Without a mode it is not guarded: `reason`.

    While cookies are held, SYNs are answered by the `guard`, or by the `stack` where the driver would lose its answers.
    """

    name: str
    mode: str | None = None
    cookies_by: str | None = None
    reason: str | None = None


class GuardedApplication(msgspec.Struct, frozen=True):
    application: str
    verdicts: dict[str, int]


class Guard(msgspec.Struct, frozen=True):
    """Packets judged before the stack sees them; `missing` says why not, `verdicts` count packets to guarded ports."""

    is_on: bool
    missing: str | None = None
    not_believed: str | None = None  # why a plan that was left on disk was not taken up
    interfaces: list[GuardedInterface] = []
    left_out: int = 0
    sessions: int = 0  # two-way ones of the engine that the kernel knows now
    sessions_left_out: int = 0  # for which it had no room
    verdicts: dict[str, int] = {}
    applications: list[GuardedApplication] = []


class LegSeen(msgspec.Struct, frozen=True):
    """The way to another edge and back, as it was asked once a second. `age_ms`: since its last answer."""

    edge: str
    rtt_us: int
    variation_us: int
    least_us: int
    last_us: int
    answers: int
    late: int
    age_ms: int
    is_down: bool


class ReachSeen(msgspec.Struct, frozen=True):
    """Handshakes with the origins of an application, since the edge started; where nothing was sent again, their
    round trips are in `rtt_us_total`. `age_ms`: since the last one."""

    application: str
    connects: int
    rtt_us_total: int
    retransmitted: int
    failed: int
    age_ms: int


class WaitsSeen(msgspec.Struct, frozen=True):
    """How long clients waited for a first byte, since the edge started: flows by bucket, as `model.waits` has them."""

    total_us: int
    counts: list[tuple[int, int]]


class GainsSeen(msgspec.Struct, frozen=True):
    """Of flows of one application whose clients came to this edge: direct, and over other edges."""

    application: str
    direct: WaitsSeen | None = None
    over: WaitsSeen | None = None


class Steering(msgspec.Struct, frozen=True):
    """What smart routing has measured. `version`: of the routes that are in force there, 0 if none are."""

    version: int = 0
    legs: list[LegSeen] = []
    reach: list[ReachSeen] = []
    gains: list[GainsSeen] = []


class Overlay(msgspec.Struct, frozen=True):
    """What an edge is to others: `missing` says why nothing goes over it, `relayed` counts what others handed over."""

    name: str
    listen: str
    peers: int
    missing: str | None = None
    relayed: dict[str, int] = {}
    peers_refused_total: int = 0
    links_failed_total: int = 0
    flows_ready_total: int = 0  # found a connection to the next edge that was there already
    flows_waited_total: int = 0
    datagrams_large_total: int = 0  # that did not fit a packet to the next edge
    flows_resumed_total: int = 0  # went on over another connection, counted at their first and their last edge
    flows_lost_total: int = 0  # found none
    flows_unkept_total: int = 0  # were too much to be kept
    kept_bytes: int = 0  # held now so that flows can go on
    steering: Steering = Steering()


class Detection(msgspec.Struct, frozen=True):
    """An attack of one source on one application; `until_unix_ms`: it is banned, or was."""

    id: str  # 32 hex digits
    application: str
    kind: str  # connection_flood, brute_force, port_scan, idle_hold
    source: str  # a prefix
    started_unix_ms: int
    last_unix_ms: int
    count: int  # connections that gave it away, or were refused or cut since
    until_unix_ms: int | None = None
    began_unix_ms: int = 0  # what gave it away, as far as the engine remembers; 0: not told
    per_s: int = 0  # connections, in the second in which it was seen last


class Announced(msgspec.Struct, frozen=True):
    """A prefix and how routers hear of it: `announced`, `leaving` (a last resort) or `withdrawn`."""

    prefix: str
    state: str
    communities: list[str] = []
    med: int | None = None


class AnycastState(msgspec.Struct, frozen=True):
    """What this edge says to its routers; `trouble`: why they may not hear of it."""

    prefixes: list[Announced]
    trouble: str | None = None


class Report(msgspec.Struct, frozen=True):
    """`events` is the JSON list as it came; `decode_events` reads it. The last three are added by the agent.

    `content`: `snapshot.content_digest` of what it serves; unknown until control has delivered it to this process.
    """

    version: int
    is_draining: bool
    uptime_ms: int
    workers: int
    open_files: OpenFiles
    totals: dict[str, int]
    applications: list[dict[str, int | str]]
    refused: list[Listener]
    events: msgspec.Raw
    events_lost: int
    rejected_snapshots: list[str]
    memory: Memory | None = None
    port_pressure: list[PortPressure] = []
    workers_replaced_total: int = 0
    flow_path: FlowPath = FlowPath(is_on=False)
    carriers: list[CarriedAt] = []
    guard: Guard = Guard(is_on=False)
    detections: list[Detection] = []  # the newest last, at most 256
    bans_not_believed: str | None = None  # why bans that were left on disk were not taken up
    attacks: list[Attack] = []  # the newest last; those that go on among them
    mitigation: MitigationState | None = None
    overlay: Overlay | None = None  # it speaks to no other edge
    content: str | None = None
    anycast: AnycastState | None = None  # none: it is not told to announce anything

    @property
    def has_events(self) -> bool:
        return len(bytes(self.events)) > len("[]")


decode_apply_report = msgspec.json.Decoder(ApplyReport).decode
decode_report = msgspec.json.Decoder(Report).decode
decode_events = msgspec.json.Decoder(list[Event]).decode
