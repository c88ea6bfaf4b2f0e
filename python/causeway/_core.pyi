"""The compiled engine (crates/causeway-py). JSON bytes in and out; every call lets go of the interpreter."""

from typing import final

__all__ = ["Edge", "NativeError", "probe"]

class NativeError(Exception):
    """A call that the engine refused; nothing was changed. `code` is stable, `side` is operator or edge."""

    code: str
    side: str
    message: str

@final
class Edge:
    """A running data plane on threads of its own."""

    @staticmethod
    def start(config: bytes) -> Edge:
        """Start workers and serve the newest good snapshot of `state_dir`, if there is one."""

    def apply(self, snapshot: bytes) -> bytes:
        """Do what the snapshot says, and nothing else; answers an ApplyReport. Raises NativeError."""

    def observe(self, max_events: int) -> bytes:
        """A Report; takes up to `max_events` records out of the event rings."""

    def skip_events(self, keep: int) -> int:
        """Pass over the records that wait, but for the last `keep` of each worker; answers how many."""

    def drain(self, deadline_ms: int) -> int:
        """Close listeners, wait for flows, cut what is left; answers how many were cut."""

def probe() -> bytes:
    """What this machine can do: a list of name, available, detail."""
