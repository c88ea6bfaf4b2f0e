"""Ports that nobody has, for TCP and UDP, on IPv4 and IPv6.

Below the range the kernel gives to outgoing connections, or one of those would sit on a port between choice and use.
Tests that need a certain number take it from below. Workers of pytest-xdist choose from ranges of their own, or two
would find the same port free.
"""

import itertools
import os
import random
import socket

FIRST, LAST = 22_000, 32_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_share = (LAST - FIRST) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
LOWEST = FIRST + _worker * _share
HIGHEST = LOWEST + _share
_next = itertools.count(random.randrange(LOWEST, HIGHEST))


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    run = 0
    for number in itertools.islice(_next, HIGHEST - LOWEST):
        port = LOWEST + number % (HIGHEST - LOWEST)
        run = (0 if port == LOWEST else run) + 1 if _is_free(port) else 0
        if run == count:
            return port - count + 1
    raise AssertionError(f"no {count} free ports in a row between {LOWEST} and {HIGHEST}")


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind((address, port))
                except OSError:
                    return False
    return True
