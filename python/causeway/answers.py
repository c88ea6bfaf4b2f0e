"""What the API answers, as shapes: what the client hands on and the command line shows.

Pure, and of no server's inside: fields are those of the wire.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class PortRange(TypedDict):
    first: int
    last: int


class Account(TypedDict):
    id: str
    name: str


class Zone(TypedDict):
    id: str
    name: str
    status: NotRequired[str]
    created_on: NotRequired[str]


class ZoneSetting(TypedDict):
    id: str
    value: str
    editable: bool
    modified_on: str | None


class DnsName(TypedDict):
    type: str
    name: str


class Application(TypedDict):
    """An application as the v4 API shows it; what else the server adds is kept as it came."""

    id: str
    protocol: str
    dns: DnsName
    origin_direct: NotRequired[list[str]]
    origin_dns: NotRequired[dict[str, object]]
    origin_port: NotRequired[int | str]
    proxy_protocol: NotRequired[str]
    edge_ips: NotRequired[dict[str, object]]
    created_on: NotRequired[str]
    modified_on: NotRequired[str]
    x_causeway: NotRequired[dict[str, object]]


class Reason(TypedDict):
    code: str
    side: str
    message: str


class Judged(TypedDict):
    by: str
    reason: Reason | None


class Listener(TypedDict):
    application: str
    protocol: str
    address: str
    ports: PortRange
    state: str
    reason: NotRequired[Reason | None]
    carrier: NotRequired[str]
    not_carried: NotRequired[Reason | None]
    judged: NotRequired[Judged | None]


class PortPressure(TypedDict):
    protocol: str
    origin: str | None
    used: int
    available: int
    share: float


class Detection(TypedDict):
    """An attack of one source on one application."""

    id: str
    application: str
    kind: str
    source: str
    started_unix_ms: int
    last_unix_ms: int
    count: int
    until_unix_ms: int | None  # banned until then


class FlowPath(TypedDict):
    is_on: bool
    missing: str | None
    flows: int
    opening: int
    capacity: int
    interfaces: int
    hook: NotRequired[str | None]
    verdicts: dict[str, int]


class GuardedInterface(TypedDict):
    name: str
    mode: str | None
    cookies_by: NotRequired[str | None]
    reason: str | None


class GuardedApplication(TypedDict):
    application: str
    verdicts: dict[str, int]


class Guard(TypedDict):
    is_on: bool
    missing: str | None
    not_believed: str | None
    interfaces: list[GuardedInterface]
    left_out: int
    sessions: int
    sessions_left_out: int
    verdicts: dict[str, int]
    applications: list[GuardedApplication]


class MitigationSummary(TypedDict):
    is_enabled: bool
    is_attached: bool
    missing: str | None
    rules: int
    holds: int
    attacks: int


class RemoteStatus(TypedDict):
    """Of an edge of another machine: what it said of itself, and `trouble` with its newest snapshot."""

    addresses: list[str]
    software: str
    is_silent: bool
    silent_s: float  # since its last report
    is_drained: bool  # it serves nobody, as it was told
    trouble: str | None
    is_held: NotRequired[bool]  # a change waits for its stage there
    rollout: NotRequired[int | None]  # the open one, where it has reached the edge


class Announced(TypedDict):
    prefix: str
    state: str  # announced, leaving, withdrawn
    communities: list[str]
    med: int | None


class AnycastStatus(TypedDict):
    prefixes: list[Announced]
    trouble: str | None


class EdgeStatus(TypedDict):
    name: str
    version: int
    content: NotRequired[str | None]  # digest of what it serves
    is_draining: bool
    refused: list[Listener]
    totals: dict[str, int]
    open_files: dict[str, int]
    workers: NotRequired[int]
    workers_replaced_total: NotRequired[int]
    flow_path: NotRequired[FlowPath]
    detections: NotRequired[list[Detection]]  # attacks of sources, the newest last
    guard: NotRequired[Guard]
    mitigation: NotRequired[MitigationSummary]
    anycast: NotRequired[AnycastStatus | None]
    memory: NotRequired[dict[str, int] | None]
    port_pressure: NotRequired[list[PortPressure]]
    remote: NotRequired[RemoteStatus]  # an edge of another machine


class PopEdge(TypedDict):
    name: str
    state: str  # serving, drained, draining, silent


class PopStatus(TypedDict):
    name: str
    edges: list[PopEdge]
    connections_open: int
    bytes_ingress: int
    bytes_egress: int


class RolloutChange(TypedDict):
    application_id: str
    name: str
    how: str  # created, changed, deleted


class Rollout(TypedDict):
    """`sizes`: how many edges each stage is to reach; `edges`: which have been given it."""

    number: int
    state: str
    stage: int
    stages: int
    sizes: list[int]
    edges: list[str]
    changes: list[RolloutChange]
    reason: str | None
    began_unix_ms: int
    ended_unix_ms: int | None


class OpenRollout(TypedDict):
    number: int
    stage: int
    stages: int


class Course(TypedDict):
    """What is on its way to edges of other machines; `waiting`: applications that no rollout has begun with."""

    open: OpenRollout | None
    halted: list[int]
    waiting: int


class RoutePart(TypedDict):
    of: str
    ms: float | None  # nothing: there is no way


class RouteCandidate(TypedDict):
    path: list[str]
    cost_ms: float | None
    parts: list[RoutePart]


class Route(TypedDict):
    """From one edge to the origins of one application; an empty path is direct. The first candidate is in use."""

    application: str
    name: str | None
    edge: str
    path: list[str]
    cost_ms: float | None
    direct_ms: float | None
    gain_ms: float | None
    since_s: float
    candidates: list[RouteCandidate]


class Waits(TypedDict):
    """How long clients waited for the first byte of the origin; `histogram`: flows by bucket."""

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    histogram: list[WaitsBucket]


class WaitsBucket(TypedDict):
    from_ms: float
    to_ms: float | None  # nothing: it has no end
    count: int


class Gain(TypedDict):
    """What flows over other edges save. `routing_ms` and `connection_ms` add up to `mean_ms`; `reason`: why not all is
    said."""

    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    routing_ms: float | None
    connection_ms: float | None
    reason: str | None


class RouteGain(TypedDict):
    """Of flows of the last ten minutes. `path`: over others, as it is now; nothing: there is none."""

    application: str
    name: str | None
    edge: str
    path: list[str] | None
    direct_rtt_ms: float | None
    path_rtt_ms: float | None
    direct: Waits
    over: Waits
    gain: Gain


class SiteTold(TypedDict):
    addresses: list[str]
    location: tuple[float, float] | None


class NameTold(TypedDict):
    name: str
    sites: list[SiteTold]


class TableTold(TypedDict):
    serial: int
    ttl_s: int
    names: list[NameTold]


class NamesTold(TypedDict):
    """By which name servers answer; `counters` of this machine's, since it has started."""

    table: TableTold
    knows_places: bool
    counters: dict[str, object] | None


class ControlNode(TypedDict):
    name: str
    url: str
    silent_s: float
    is_connected: bool  # with the exchange
    software: str


class ControlStatus(TypedDict):
    node: str  # that answers
    leads: bool  # whether that is the one that leads
    leader: str | None
    leader_url: str | None
    term: int | None  # grows with each leader
    trouble: str | None
    nodes: list[ControlNode]


class Status(TypedDict):
    version: str
    uptime_s: float
    ready: bool
    reason: NotRequired[str | None]
    edges: list[EdgeStatus]
    applications: int
    notices: NotRequired[list[str]]  # what applications wish and cannot have now
    rollouts: NotRequired[Course | None]
    control: NotRequired[ControlStatus | None]  # where several nodes share a database


class ApplicationStatus(TypedDict):
    id: str
    name: NotRequired[str | None]
    dns: str
    protocol: str
    listeners: list[Listener]
    counters: dict[str, int]
    notice: NotRequired[str | None]  # what it wishes and cannot have now


class Token(TypedDict):
    id: str
    name: str
    scope: str
    created_on: NotRequired[str]
    value: NotRequired[str]


class FirewallTarget(TypedDict):
    target: str
    value: str


class RuleScope(TypedDict):
    id: str
    type: str


class FirewallRule(TypedDict):
    """An IP access rule; its counts are in `x_causeway`."""

    id: str
    mode: str
    notes: str
    configuration: FirewallTarget
    scope: RuleScope
    x_causeway: dict[str, object]


class FirewallList(TypedDict):
    id: str
    name: str
    prefixes: dict[str, int]


class GeoDatabase(TypedDict):
    target: str
    name: str
    prefixes: int
    keys: int


class MitigationRule(TypedDict):
    """A rule that automatic mitigation made; `match` is what has to hold of a packet."""

    id: str
    application: str
    action: str
    match: dict[str, object]


class MitigationRuleState(MitigationRule):
    """One in force. `by`, in explanations: `address` if its source names the address, else `form`."""

    attack: str
    made_on: str
    packets: int
    established: int
    false_positive_bound: float | None
    good_samples: int
    by: NotRequired[str]


class Rate(TypedDict):
    of: str
    ipv4: int
    ipv6: int
    per_s: int
    burst: int
    spares_returning: bool


class Hold(TypedDict):
    application: str
    cookies: bool
    state: bool
    no_fragments: bool
    rates: list[Rate]


class EdgeMitigation(TypedDict):
    name: str
    is_enabled: bool
    is_attached: bool
    missing: str | None
    rules: list[MitigationRuleState]
    holds: list[Hold]
    refused: dict[str, str]


class Mitigation(TypedDict):
    enabled: bool
    edges: list[EdgeMitigation]


class Attack(TypedDict):
    id: str
    application: str
    application_name: str | None
    kind: str
    vector: str
    is_active: bool
    started_on: str
    ended_on: str | None
    detected_after_ms: int
    mitigated_after_ms: int | None
    peak_packets_per_s: int
    packets_dropped: int
    packets_passed: int
    false_positive_bound: float | None
    good_samples: int
    rules: NotRequired[list[MitigationRule]]
    evidence: NotRequired[list[str]]


class Automatic(TypedDict):
    rules: list[MitigationRuleState]
    hold: Hold | None


class Explained(TypedDict):
    """What the rules say of an address at one application."""

    id: str
    dns: str
    protocol: str
    ip_firewall: bool
    verdict: str
    by: str | None
    rule: FirewallRule | None
    dry_run: list[FirewallRule]
    asn: int | None
    country: str | None
    banned_s: float
    automatic: Automatic
    detected: str | None


class Explanation(TypedDict):
    address: str
    applications: list[Explained]


class Lost(TypedDict):
    """Says that the reader was too slow for this many events."""

    kind: Literal["lost"]
    events: int


class AttackTurn(TypedDict):
    """An attack begins or ends."""

    kind: Literal["attackStarted", "attackEnded"]
    time_ms: int
    application: str
    application_name: NotRequired[str | None]
    attack: str
    attack_kind: str
    vector: str
    peak_packets_per_s: int
    packets_dropped: int
    packets_passed: int


class Event(TypedDict):
    """One line of the flow log, as the edge saw it."""

    seq: int
    kind: Literal["connect", "disconnect", "originError", "clientFiltered", "resolveOrigin"]
    time_ms: int
    application: str
    application_name: NotRequired[str | None]
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
    cause: str | None
    message: str | None
    trace: NotRequired[str | None]  # the same at every edge that the flow goes through
    path: NotRequired[list[str] | None]  # the edges after this one, [] for direct
