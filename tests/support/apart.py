"""What tests that run side by side would share, each pytest-xdist worker has for itself: a network, with all its ports.

Without the right to make one, workers share the machine's, and differ in the ports that `ports` gives.
"""

import ctypes
import os
import shutil
import subprocess

from support.program import PATH

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def move_to_a_network_of_its_own() -> None:
    """For the calling thread and all that it starts from now on; with loopback, and no way out."""
    ip = shutil.which("ip", path=PATH)
    if os.geteuid() == 0 and ip and _libc.unshare(_CLONE_NEWNET) == 0:
        subprocess.run([ip, "link", "set", "lo", "up"], check=True)
