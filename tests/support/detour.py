"""Packets that a router sends on later than they came, or twice: a share of them takes a way through a TUN device.

This machine's kernel has no netem. Only the packets that are harmed go through Python.
"""

import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.namespaces import Namespace
from support.road import filtered, prefixes

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001
_TABLE = "77"

# What becomes of a packet: after how many seconds it goes on; more than one for each copy.
Fate = Callable[[bytes], list[float]]


def twice(_packet: bytes) -> list[float]:
    return [0.0, 0.0]


def late(_packet: bytes) -> list[float]:
    """Behind others that came after it."""
    return [random.uniform(0.001, 0.008)]


def after(seconds: float) -> Fate:
    return lambda _packet: [seconds]


class Detour:
    def __init__(self, router: Namespace, fate: Fate) -> None:
        self.fate = fate
        self.packets = 0
        with router:
            self._tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self._tun, _TUNSETIFF, struct.pack("16sH22x", b"detour", _TUN_WITHOUT_HEADER))
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        order = 0
        while True:
            wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([self._tun, self._stop], [], [], wait)
            if self._stop in ready:
                return
            if self._tun in ready:
                packet = os.read(self._tun, 65_536)
                if packet[9 if packet[0] >> 4 == 4 else 6] not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                    continue  # of the router itself: a new device looks for others
                self.packets += 1
                for delay in self.fate(packet):
                    order += 1
                    heapq.heappush(waiting, (time.monotonic() + delay, order, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                os.write(self._tun, heapq.heappop(waiting)[2])

    def close(self) -> None:
        os.write(self._stopper, b"x")
        self._thread.join()
        for handle in (self._tun, self._stop, self._stopper):
            os.close(handle)


@contextmanager
def detour(router: Namespace, percent: int, fate: Fate, kind: str = "meta l4proto { tcp, udp }") -> Iterator[Detour]:
    """A share of what the router forwards has this fate; `kind` is what of it, in the words of nft."""
    made = Detour(router, fate)
    try:
        router.ip("link", "set", "detour", "up")
        for family, prefix in (("-4", prefixes(0)[0]), ("-6", prefixes(0)[1])):
            router.ip(family, "route", "replace", prefix, "dev", "detour", "table", _TABLE)
            router.ip(family, "rule", "add", "fwmark", "7", "lookup", _TABLE)
        share = "" if percent == 100 else f"numgen random mod 100 < {percent}"
        chosen = f'iifname != "detour" {kind} {share} meta mark set 7'
        with filtered(router, "prerouting", chosen, table="detour"):
            yield made
        for family in ("-4", "-6"):
            router.ip(family, "rule", "del", "fwmark", "7", "lookup", _TABLE)
    finally:
        made.close()
