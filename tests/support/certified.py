"""A network that control certifies: control, and the nats-server that starts from what control has written."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from support.edge import CAUSEWAY, Running
from support.patience import eventually
from support.ports import free_port
from support.program import Program, Programs, environment, need


class CertifiedNetwork:
    def __init__(self, programs: Programs, folder: Path, make_edge: Callable[..., Running], *flags: str) -> None:
        """`flags`: more of `causeway up`."""
        need("nats-server")
        self.programs, self.folder = programs, folder
        self.url = f"tls://127.0.0.1:{free_port()}"
        self.control = make_edge("--exchange", self.url, "--workers", "1", *flags).start()
        self.nats = self.start_nats()

    def start_nats(self) -> Program:
        configuration = self.control.data_dir / "exchange" / "nats.conf"
        eventually(configuration.exists)
        nats = self.programs.start("nats-server", "-c", configuration, "-a", "127.0.0.1")
        eventually(lambda: "Server is ready" in nats.output)
        return nats

    @property
    def steering(self) -> dict[str, str]:
        """What tells a command whom to ask."""
        return {"CAUSEWAY_URL": self.control.url, "CAUSEWAY_API_TOKEN": self.control.token}

    def command(self, *words: str, status: int = 0) -> str:
        """What a command of the command line said, on both channels."""
        done = subprocess.run(
            [CAUSEWAY, *words],
            capture_output=True, text=True, timeout=30, cwd=self.folder, env=environment(self.steering),
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert done.returncode == status, told
        return told

    def invite(self, name: str) -> Path:
        self.command("invite", name)
        return self.folder / f"{name}.join"
