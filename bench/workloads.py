"""What is measured: a table. Each row is one run of the load client and how its numbers are to be read."""

from dataclasses import dataclass

ECHO, SINK, SOURCE, UDP_ECHO = 7001, 7002, 7003, 7004
IDLE_CONNECTIONS = 5000


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    unit: str
    port: int
    load: tuple[str, ...]
    figure: str = "rate"  # the field of the load client's result that counts
    per_figure: float = 1  # what that field is divided by to give the unit
    cost_unit: str = ""  # CPU of the proxy for a piece of work, "" where it says nothing
    cost_of: float = 1  # the load client's units in that piece
    cost_scale: float = 1000  # CPU in ms; 1 for seconds
    is_udp: bool = False
    lower_is_better: bool = False

    @property
    def is_memory(self) -> bool:
        return self.load[0] == "idle"

    @property
    def is_latency(self) -> bool:
        return self.load[0] == "pace"


def _bulk(direction: str, streams: int) -> Workload:
    port = SINK if direction == "up" else SOURCE
    return Workload(
        f"bulk-{direction}-{streams}",
        "Gbit/s",
        port,
        ("bulk", "--direction", direction, "--streams", str(streams)),
        per_figure=1e9 / 8,
        cost_unit="CPU s per GB",
        cost_of=1e9,
        cost_scale=1,
    )


def _trips(connections: int) -> Workload:
    load = ("rr", "--connections", str(connections), "--size", "64")
    return Workload(f"tcp-rr-{connections}", "rt/s", ECHO, load, cost_unit="CPU ms per 1,000", cost_of=1000)


def _short(name: str, close: str) -> Workload:
    load = ("short", "--parallel", "32", "--close", close)
    return Workload(name, "conn/s", ECHO, load, cost_unit="CPU ms per 1,000", cost_of=1000)


def _udp(flows: int, in_flight: int) -> Workload:
    load = ("udp", "--flows", str(flows), "--in-flight", str(in_flight), "--size", "200")
    name, cost = f"udp-{flows}x{in_flight}", "CPU ms per 1,000"
    return Workload(name, "rt/s", UDP_ECHO, load, cost_unit=cost, cost_of=1000, is_udp=True)


def _latency(protocol: str) -> Workload:
    load = ("pace", "--protocol", protocol, "--rate", "2000", "--size", "64", "--connections", "8")
    port = UDP_ECHO if protocol == "udp" else ECHO
    is_udp = protocol == "udp"
    return Workload(f"{protocol}-lat", "us p50", port, load, figure="p50_us", is_udp=is_udp, lower_is_better=True)


WORKLOADS = (
    _short("tcp-crr", "fin"),
    _short("tcp-crr-rst", "rst"),
    _trips(16),
    _trips(256),
    _bulk("up", 4),
    _bulk("down", 4),
    _bulk("up", 1),
    _bulk("down", 1),
    _udp(8, 32),
    _udp(256, 2),
    _latency("tcp"),
    _latency("udp"),
    Workload(
        f"mem-{IDLE_CONNECTIONS}",
        "B RSS/conn",
        ECHO,
        ("idle", "--connections", str(IDLE_CONNECTIONS)),
        lower_is_better=True,
    ),
)
