"""Datagrams of ever other sources, as fast as they go, until standard input ends. Run as a program of its own.

`strangers.py PREFIX ADDRESS PORT`: the prefix, an IPv4 /16, is this machine's own.
"""

import ipaddress
import itertools
import select
import socket
import struct
import sys

_BATCH = 512
_IP_PKTINFO = 8  # linux/in.h


def main(prefix: str, address: str, port: int) -> None:
    first = int(ipaddress.ip_network(prefix).network_address)
    ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
    for end in ends:
        end.bind(("0.0.0.0", 0))
    print("begun", flush=True)
    for turn in itertools.count():
        end = ends[turn // 128 % len(ends)]
        for host in range(turn * _BATCH, (turn + 1) * _BATCH):
            source = struct.pack("!I", first + host % 65_536)
            told = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, source, b"\0" * 4))]
            end.sendmsg([b"x" * 64], told, 0, (address, port))
        if select.select([sys.stdin], [], [], 0)[0]:
            return


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
