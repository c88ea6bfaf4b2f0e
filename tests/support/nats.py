"""A nats-server of a test's own, with JetStream."""

from pathlib import Path

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
