"""Who is attacked: the bench's contestants with the defence that an expert would switch on."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as Context
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from contestants import CONTESTANTS as PLAIN
from contestants import FAST_PATH, Contestant, Running, Unavailable, _causeway
from world import World, inside

# nf_synproxy answers SYNs with cookies and lets the connection through once it is proven
# (Documentation/networking/nf_conntrack-sysctl.rst).
SYNPROXY = """
table ip defence {
  chain before {
    type filter hook prerouting priority raw
    iifname "cwb1" tcp flags syn notrack
  }
  chain after {
    type filter hook input priority filter
    iifname "cwb1" ct state { invalid, untracked } synproxy mss 1460 wscale 7 timestamp sack-perm
    ct state invalid drop
  }
}
"""


@contextmanager
def _synproxy(world: World) -> Iterator[None]:
    strict = "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"
    nft = [*inside(world.proxy), "nft"]
    made = subprocess.run([*nft, "-f", "-"], input=SYNPROXY, text=True, capture_output=True)
    if made.returncode:
        raise Unavailable(f"nf_synproxy: {made.stderr.strip()}")
    subprocess.run([*inside(world.proxy), "sh", "-c", strict], check=True)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete", "table", "ip", "defence"], check=True)


@dataclass(frozen=True, slots=True)
class Defended:
    name: str
    contestant: Contestant
    around: Callable[[World], Context[None]] = lambda world: nullcontext()


_BY_NAME = {row.name: row for row in PLAIN}
CONTESTANTS = (
    Defended("haproxy", _BY_NAME["haproxy"]),
    Defended("nginx", _BY_NAME["nginx"]),
    Defended("haproxy-synproxy", _BY_NAME["haproxy"], _synproxy),
    # As it is by default: its guard comes when there is something to hold.
    Defended("causeway", replace(_BY_NAME["causeway"], start=lambda place: _causeway(place, guard="auto"))),
    Defended("fast-path", replace(FAST_PATH, start=lambda place: _causeway(place, carrier="kernel", guard="auto"))),
)


@contextmanager
def standing(row: Defended, world: World, place: int, directory: Path) -> Iterator[Running]:
    with row.around(world):
        running = row.contestant.run(world, place, directory, ())
        try:
            yield running
        finally:
            running.stop()
