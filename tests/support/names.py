"""A real DNS server (dnsmasq) on a port of its own, whose names change when the test says so."""

import signal
from pathlib import Path

from support.namespaces import Namespace
from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs, need


class NameServer:
    """Authoritative for example.net; refuses everything else."""

    def __init__(self, programs: Programs, folder: Path, *more: str, inside: Namespace | None = None) -> None:
        need("dnsmasq")
        self.port = free_port()
        self._hosts = folder / f"hosts-{self.port}"
        self._hosts.touch(mode=0o644)
        self._programs, self._inside = programs, inside
        self._command = (
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --user= "
            "--log-queries --log-facility=- --bind-interfaces --listen-address=127.0.0.1 --local=/example.net/ "
            f"--port={self.port} --addn-hosts={self._hosts}"
        ).split()
        self._command += more
        self.program = self.start()

    def start(self) -> Program:
        """Start, or start again."""
        self.program = self._programs.start(*self._command, inside=self._inside)
        eventually(lambda: "started, version" in self.program.output)
        return self.program

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def names(self, **addresses: str) -> None:
        """From now on these are the names of example.net: `www="192.0.2.1 2001:db8::1"`."""
        rows = [(a, f"{name}.example.net") for name, several in addresses.items() for a in several.split()]
        self._hosts.write_text("".join(f"{address} {name}\n" for address, name in rows))
        before = self.program.output.count(f"read {self._hosts}")
        self.program.send(signal.SIGHUP)
        eventually(lambda: self.program.output.count(f"read {self._hosts}") > before)
