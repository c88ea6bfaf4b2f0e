"""Three network namespaces in a row: client - proxy - origin, on 198.18.0.0/15, cut off from everything else.

The direct way is routed through the proxy's namespace, so it crosses the same two links. Knows nothing of
who listens.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SYSCTLS = {
    "net/ipv4/tcp_tw_reuse": "1",  # with stock settings the ports of one client last two seconds
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/ipv4/tcp_max_syn_backlog": "8192",
    "net/core/somaxconn": "4096",
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",  # router solicitations would be counted as strays
}
# Proxies have 41,000 ports towards an origin, which is more than any uses up; what is below is for flows in the kernel.
PROXY_PORTS = "24576 65535"
FIREWALL = """
table inet bench {
  counter strays {}
  chain output {
    type filter hook output priority 0
    ip daddr 198.18.0.0/15 accept
    oifname "lo" accept
    counter name strays drop
  }
  chain forward {
    type filter hook forward priority 0
    ip daddr 198.18.0.0/15 accept
    counter name strays drop
  }
}
"""


@dataclass(frozen=True, slots=True)
class World:
    client: str
    proxy: str
    origin: str

    @property
    def names(self) -> tuple[str, str, str]:
        return self.client, self.proxy, self.origin

    def listen_address(self, place: int) -> str:
        return f"198.18.0.{10 + place}"

    def origin_address(self, place: int) -> str:
        """One for each contestant: the ports of a connection to it are then its own to use up."""
        return f"198.19.0.{10 + place}"

    def strays(self) -> int:
        """Packets that tried to leave for somewhere else, and were dropped."""
        return sum(_strays(name) for name in self.names)


def inside(namespace: str) -> list[str]:
    """The words that run a command in there, as a child that ends when the bench is killed."""
    return ["setpriv", "--pdeathsig", "TERM", "ip", "netns", "exec", namespace]


@contextmanager
def world(places: int, congestion: str | None = None) -> Iterator[World]:
    """Build it for so many contestants and take it down again.

    `congestion`: the congestion control of all senders; None: the machine's.

    Raises:
        NotAllowed: the machine does not let namespaces have that one.
    """
    _remove_left_over()
    made = World(*(f"cwb{os.getpid()}{end}" for end in "cpo"))
    try:
        _build(made, places)
        if congestion:
            _choose(made, congestion)
        yield made
    finally:
        for name in made.names:
            with suppress(subprocess.CalledProcessError):
                _run(["ip", "netns", "del", name])


class NotAllowed(Exception):
    """The machine refuses; the message says what to do."""


def _choose(made: World, congestion: str) -> None:
    path = "/proc/sys/net/ipv4/tcp_congestion_control"
    for name in made.names:
        try:
            _run(["ip", "netns", "exec", name, "tee", path], congestion)
        except subprocess.CalledProcessError as error:
            allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().strip()
            step = f"sysctl net.ipv4.tcp_allowed_congestion_control='{allowed} {congestion}'"
            raise NotAllowed(
                f"namespaces may not use {congestion} here, only {allowed}; allow it with: {step}"
            ) from error


def _build(made: World, places: int) -> None:
    for name in made.names:
        _run(["ip", "netns", "add", name])
        ports = {"net/ipv4/ip_local_port_range": PROXY_PORTS} if name == made.proxy else {}
        settings = "".join(f"echo '{value}' > /proc/sys/{key}\n" for key, value in (SYSCTLS | ports).items())
        _run(["ip", "netns", "exec", name, "sh", "-e"], settings)
        _run(["ip", "netns", "exec", name, "nft", "-f", "-"], FIREWALL)
        _ip(name, "link set lo up")
    _run(
        [
            "ip",
            "link",
            "add",
            "cwb0",
            "netns",
            made.client,
            "type",
            "veth",
            "peer",
            "cwb1",
            "netns",
            made.proxy,
        ]
    )
    _run(
        [
            "ip",
            "link",
            "add",
            "cwb2",
            "netns",
            made.proxy,
            "type",
            "veth",
            "peer",
            "cwb3",
            "netns",
            made.origin,
        ]
    )
    listen = [f"addr add {made.listen_address(place)}/24 dev cwb1" for place in range(places)]
    origins = [f"addr add {made.origin_address(place)}/24 dev cwb3" for place in range(places)]
    _ip(
        made.client,
        "addr add 198.18.0.2/24 dev cwb0",
        "link set cwb0 up",
        "route add 198.19.0.0/24 via 198.18.0.1",
    )
    _ip(made.proxy, "addr add 198.18.0.1/24 dev cwb1", *listen, "link set cwb1 up")
    _ip(made.proxy, "addr add 198.19.0.1/24 dev cwb2", "link set cwb2 up")
    _ip(made.origin, *origins, "link set cwb3 up", "route add 198.18.0.0/24 via 198.19.0.1")


@contextmanager
def directory() -> Iterator[Path]:
    """A temporary directory that the next bench removes where this one is killed."""
    for entry in Path(tempfile.gettempdir()).glob("causeway-bench-*-*"):
        if not Path("/proc", entry.name.split("-")[2]).exists():
            shutil.rmtree(entry, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"causeway-bench-{os.getpid()}-") as name:
        yield Path(name)


def _remove_left_over() -> None:
    """What a bench that was killed could not take down. Its processes ended with it."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name, pid in re.findall(r"^(cwb(\d+)[cpo])\b", listed, re.MULTILINE):
        if not Path(f"/proc/{pid}").exists():
            _run(["ip", "netns", "del", name])


def _strays(namespace: str) -> int:
    command = ["ip", "netns", "exec", namespace, "nft", "-j", "list", "counters"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return sum(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item)


def _ip(namespace: str, *lines: str) -> None:
    _run(["ip", "-n", namespace, "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], text: str = "") -> None:
    subprocess.run(command, input=text, capture_output=True, text=True, check=True)
