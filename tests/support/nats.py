"""A nats-server of a test's own, with JetStream: one that lets everybody in, or whom an authority certified."""

import re
from pathlib import Path

from causeway.exchange.authority import Authority
from causeway.exchange.identity import Identity
from causeway.exchange.nats_control import NotGranted
from causeway.exchange.words import Granted
from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs, need


class NatsServer:
    """Started, killed, and started again on what it had stored."""

    def __init__(self, programs: Programs, store: Path, *flags: str) -> None:
        need("nats-server")
        self._programs, self._flags = programs, flags
        self.store, self.has_jetstream = store, True
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.program: Program | None = None

    def start(self) -> "NatsServer":
        jetstream = ["-js", "-sd", self.store] if self.has_jetstream else []
        program = self._programs.start("nats-server", "-a", "127.0.0.1", "-p", str(self.port), *jetstream, *self._flags)
        eventually(lambda: "Server is ready" in program.output)
        self.program = program
        return self

    def kill(self) -> None:
        assert self.program
        self.program.end()


class CertifyingServer(NatsServer):
    """As control has it written: TLS of both sides, and permissions for each."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        super().__init__(programs, folder / "jetstream")
        self.url = f"tls://127.0.0.1:{self.port}"
        self.folder = folder
        self.authority = Authority(folder, self.url)
        self.authority.prepare_server({})

    def start(self) -> "CertifyingServer":
        program = self._programs.start("nats-server", "-c", self.folder / "nats.conf", "-a", "127.0.0.1")
        eventually(lambda: "Server is ready" in program.output)
        self.program = program
        return self

    def refused(self) -> list[str]:
        """What nats-server has logged of those who wanted more than they may: the subjects."""
        assert self.program
        return re.findall(r'(?:Publish|Subscription) Violation .* Subject "([^"]+)"', self.program.output)


class OpenRegistry:
    """Whoever asks is certified, as what the subject says; what control makes of it is in tests of its own."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.names: dict[str, str] = {}  # by invitation
        self.revoked: dict[str, int] = {}
        self.public_keys: list[str] = []

    def invite(self, number: str, name: str) -> Identity:
        self.names[number] = name
        return self._authority.invitation(number, name)

    def enrol(self, invitation: str, request: str) -> Granted:
        if invitation not in self.names:
            raise NotGranted("nobody was invited so")
        return self.renew(self.names.pop(invitation), request)

    def renew(self, name: str, request: str) -> Granted:
        made = self._authority.certify(name, request)
        self.public_keys.append(made.public_key)
        return Granted(made.certificate, made.jwt)

    def account_jwt(self) -> str:
        return self._authority.account_jwt(self.revoked)

    def system(self) -> Identity:
        return self._authority.system()
