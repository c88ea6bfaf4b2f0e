"""A network interface whose link is up for as long as an edge serves: routers' own sign of life.

It is a TUN device that this process holds open. When the process ends, however it ends, the kernel takes the device
away, and a routing daemon takes back what leads there: nobody has to act. Packets that come into it are dropped.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

DEVICE = "causeway0"
ALONE_S = 3.0  # a serving process that dies is replaced within a second or so: no reason to move anybody
STEADY_S = 10.0  # between one time that clients were sent elsewhere and the next

_TUNSETIFF, _TUNSETCARRIER = 0x4004_54CA, 0x4004_54E2
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class NoBeacon(Exception):
    """There can be none here; the message says why."""


def why_none() -> str | None:
    """Why there can be no beacon here, if so: one without a name is made and let go of."""
    try:
        handle = _open(b"")
    except NoBeacon as error:
        return str(error)
    os.close(handle)
    return None


def _open(name: bytes) -> int:
    """Raises NoBeacon."""
    try:
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NoBeacon(f"/dev/net/tun cannot be opened: {error.strerror}") from error
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(handle)
        is_taken = error.errno == errno.EBUSY
        why = "another causeway has it" if is_taken else f"{error.strerror} (it takes CAP_NET_ADMIN)"
        raise NoBeacon(f"the interface {name.decode() or 'of a beacon'} cannot be made: {why}") from error
    return handle


class Beacon:
    """Dark at first. It is lit while announcements are wanted and somebody serves."""

    def __init__(self) -> None:
        """Raises NoBeacon."""
        self._handle = _open(DEVICE.encode())
        try:
            self._show(is_lit=False)
            _set_up()
        except OSError as error:
            os.close(self._handle)
            raise NoBeacon(f"the link of {DEVICE} cannot be switched: {error.strerror}") from error
        self.is_lit = False
        self.is_wanted = False
        self._served_s = float("-inf")
        self._darkened_s = float("-inf")

    def tend(self, now_s: float, *, is_serving: bool) -> bool:
        """Light it or not; return whether that is a change."""
        if is_serving:
            self._served_s = now_s
        lit = self.is_wanted and now_s - self._served_s < ALONE_S
        if lit and not self.is_lit and now_s - self._darkened_s < STEADY_S:
            return False
        if lit is self.is_lit:
            return False
        if not lit and self.is_wanted:
            self._darkened_s = now_s  # of a process that is gone; what is withdrawn in order has its own pace
        self._show(is_lit=lit)
        self.is_lit = lit
        return True

    def _show(self, *, is_lit: bool) -> None:
        fcntl.ioctl(self._handle, _TUNSETCARRIER, struct.pack("i", is_lit))

    def close(self) -> None:
        os.close(self._handle)


def _set_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH22x", DEVICE.encode(), 0)
        [flags] = struct.unpack_from("16xH", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", DEVICE.encode(), flags | _IFF_UP))
