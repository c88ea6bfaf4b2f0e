"""What tests that run side by side would share, each pytest-xdist worker has for itself: a network, with all its ports.

Without the right to make one, workers share the machine's, and differ in the ports that `ports` gives. The processors
stay everybody's; a second try gets those for itself, too.
"""

import ctypes
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from support.program import PATH

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def move_to_a_network_of_its_own() -> None:
    """For the calling thread and all that it starts from now on; with loopback, and no way out."""
    ip = shutil.which("ip", path=PATH)
    if os.geteuid() == 0 and ip and _libc.unshare(_CLONE_NEWNET) == 0:
        subprocess.run([ip, "link", "set", "lo", "up"], check=True)


class Turns:
    """Tests of all workers take turns with one that wants to be alone. Locks two files, whatever is in them."""

    def __init__(self, gate: Path, room: Path) -> None:
        self._gate, self._room = (os.open(path, os.O_RDONLY) for path in (gate, room))

    def begin(self, is_alone: bool) -> None:
        # Whoever waits for an empty room holds the gate, or others would go in for ever.
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def end(self) -> None:
        fcntl.flock(self._room, fcntl.LOCK_UN)
