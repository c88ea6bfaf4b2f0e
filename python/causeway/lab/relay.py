"""The process that is the WAN: `python -m causeway.lab.relay FOLDER`, with `wan.json` in the folder."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from causeway import native
from causeway.lab.wan import SOCKET

WORLD = "wan.json"


def main(folder: Path) -> int:
    os.chdir(folder)  # a path may be longer than a socket's may be
    os.umask(0o077)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        Path(SOCKET).unlink(missing_ok=True)
        listener.bind(SOCKET)
        listener.listen(16)
        try:
            native.carry_wan(Path(WORLD).read_bytes(), listener.fileno())
        except native.NativeError as error:
            print(f"{error.code}: {error.message}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
