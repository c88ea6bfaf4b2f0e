"""Let a veth do as a real card does: what comes in waits in one queue, whoever sent it and whatever judges it.

A veth has a queue of its own only with GRO on (or with an XDP program of its own), and lets packets of a peer that can
do TSO pass beside it: then a flood of frames would never be in a client's way until somebody attaches XDP
(`veth_skb_is_eligible_for_gro`, drivers/net/veth.c).
"""

import ctypes
import fcntl
import socket
import struct
import sys

SIOCETHTOOL, ETHTOOL_SGRO, ETHTOOL_STSO = 0x8946, 0x2C, 0x1F  # linux/sockios.h, linux/ethtool.h


def receive_in_batches(device: str) -> None:
    _set(device, ETHTOOL_SGRO, 1)


def send_whole_segments_only(device: str) -> None:
    _set(device, ETHTOOL_STSO, 0)


def _set(device: str, command: int, number: int) -> None:
    value = ctypes.create_string_buffer(struct.pack("II", command, number))
    request = struct.pack("16sP", device.encode(), ctypes.addressof(value)) + bytes(16)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


if __name__ == "__main__":
    {"receives": receive_in_batches, "sends": send_whole_segments_only}[sys.argv[1]](sys.argv[2])
