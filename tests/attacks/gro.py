"""Let a veth take frames without an XDP program of its own, as a real card does: GRO makes its queue."""

import ctypes
import fcntl
import socket
import struct
import sys

SIOCETHTOOL, ETHTOOL_SGRO = 0x8946, 0x2C  # linux/sockios.h, linux/ethtool.h


def receive_in_batches(device: str) -> None:
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_SGRO, 1))
    request = struct.pack("16sP", device.encode(), ctypes.addressof(value)) + bytes(16)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


if __name__ == "__main__":
    receive_in_batches(sys.argv[1])
