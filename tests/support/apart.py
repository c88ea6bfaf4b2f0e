"""What tests that run side by side would share, each worker has for itself: a network, with all its ports.

Without the right to make one, they share the machine's and differ in the ports that `ports` gives.
"""

import ctypes
import os
import subprocess

from support.program import environment

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def move_to_a_network_of_its_own() -> bool:
    """The calling thread, and what it starts from now on; with loopback, and no way out."""
    if os.geteuid() or _libc.unshare(_CLONE_NEWNET):
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, env=environment())
    return True
