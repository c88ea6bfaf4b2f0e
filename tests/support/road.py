"""A longer way: client - left - edge - right - origin, with a router on either side of the edge, which can do harm.

client 198.18.11.2, edge 198.18.1.1 and 198.18.2.1, origin 198.18.12.2, and the same with 2001:db8. Every packet is
one segment, so that what is lost is what a wire would lose.
"""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from support.carried import EDGE, Middle, need_fast_path
from support.edge import Running
from support.namespaces import Namespace, Namespaces
from support.program import Programs, environment, need

NARROW = 1280
TOO_BIG = "icmp type destination-unreachable", "icmpv6 type packet-too-big"


class Road(Middle):
    client_at: ClassVar = {4: "198.18.11.2", 6: "2001:db8:11::2"}
    origin_at: ClassVar = {4: "198.18.12.2", 6: "2001:db8:12::2"}

    def __init__(self, namespaces: Namespaces, programs: Programs, data_dir: Path, *flags: str) -> None:
        need_fast_path()
        need("nft")
        self.programs, self.namespaces = programs, namespaces
        self.client, self.left, self.middle, self.right, self.origin = (namespaces.make() for _ in range(5))
        namespaces.join(self.left, self.client, 11)
        namespaces.join(self.middle, self.left, 1)
        namespaces.join(self.middle, self.right, 2)
        namespaces.join(self.right, self.origin, 12)
        for router in (self.left, self.right):
            forward(router)
        routes = [
            (self.client, 0, 11, 1), (self.left, 0, 1, 1), (self.middle, 11, 1, 2),
            (self.origin, 0, 12, 1), (self.right, 0, 2, 1), (self.middle, 12, 2, 2),
        ]  # fmt: skip
        for namespace, to, by, host in routes:
            route(namespace, to, by, host)
        for end, network in ((self.client, 11), (self.origin, 12)):
            end.ip("link", "set", device(end, network), "gso_max_segs", "1")
        for network in (1, 2):
            hasten(self.middle, device(self.middle, network))
        addresses = ["--edge-ip", EDGE[4], "--edge-ip", EDGE[6]]
        self.edge = Running(programs, data_dir, *addresses, *flags, inside=self.middle)

    @contextmanager
    def narrow(self, side: str, is_told: bool = True) -> Iterator[None]:
        """The far link of a router takes 1280 bytes; whether it says so to whom that stops."""
        router, far, near = (self.left, 11, 1) if side == "left" else (self.right, 12, 2)
        ways = [(far, device(router, far)), (near, device(router, near))]
        for network, name in ways:
            for prefix in prefixes(network):
                router.ip("route", "replace", prefix, "dev", name, "mtu", str(NARROW))
        rules = [] if is_told else [f"{kind} drop" for kind in TOO_BIG]
        # What the router sends to the other side goes by the default route.
        route(router, 0, near, 1, "mtu", str(NARROW))
        try:
            with filtered(router, "output", *rules):
                yield
        finally:
            for network, name in ways:
                for prefix in prefixes(network):
                    router.ip("route", "replace", prefix, "dev", name)
            route(router, 0, near, 1)
            for end in (self.client, self.origin, self.middle):
                forget_ways(end)


def prefixes(network: int) -> list[str]:
    return ["0.0.0.0/0", "::/0"] if network == 0 else [f"198.18.{network}.0/24", f"2001:db8:{network}::/64"]


def route(namespace: Namespace, to: int, by: int, host: int, *more: str) -> None:
    """Network `to` (0: every other) is reached by host `host` of network `by`."""
    for prefix, gateway in zip(prefixes(to), (f"198.18.{by}.{host}", f"2001:db8:{by}::{host}"), strict=True):
        namespace.ip("route", "replace", prefix, "via", gateway, *more)


def forward(router: Namespace) -> None:
    router.setting("ipv4/ip_forward", "1")
    router.setting("ipv6/conf/all/forwarding", "1")


def hasten(namespace: Namespace, name: str) -> None:
    """Doubt neighbours after half a second and not half a minute."""
    times = {"base_reachable_time_ms": 500, "delay_first_probe_time": 1, "retrans_time_ms": 200, "ucast_solicit": 1}
    for family, (setting, value) in itertools.product(("ipv4", "ipv6"), times.items()):
        namespace.setting(f"{family}/neigh/{name}/{setting}", str(value))


def forget_ways(namespace: Namespace) -> None:
    """What was learnt of the largest packets that a way takes."""
    namespace.ip("route", "flush", "cache")
    namespace.ip("-6", "route", "flush", "cache")


def device(namespace: Namespace, network: int) -> str:
    """The name of a namespace's interface to a network."""
    with namespace:
        told = subprocess.run(
            ["ip", "-j", "address", "show", "to", f"198.18.{network}.0/24"],
            capture_output=True, check=True, env=environment(),
        )  # fmt: skip
    (found,) = [link["ifname"] for link in json.loads(told.stdout) if link]
    return str(found)


@contextmanager
def filtered(namespace: Namespace, hook: str, *rules: str, table: str = "harm", priority: int = -150) -> Iterator[None]:
    """nftables rules at a hook (prerouting, forward, input, output), for as long as the block lasts."""
    lines = [
        f"table inet {table} {{",
        f"chain {hook} {{ type filter hook {hook} priority {priority};",
        *rules,
        "}",
        "}",
    ]
    nft(namespace, "\n".join(lines))
    try:
        yield
    finally:
        nft(namespace, f"delete table inet {table}")


def nft(namespace: Namespace, text: str) -> None:
    with namespace:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, f"{done.stderr}\n{text}"
