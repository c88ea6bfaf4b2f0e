"""The compiled engine (crates/causeway-py). JSON bytes in and out; every call lets go of the interpreter."""

from typing import final

__all__ = ["Edge", "NameServer", "NativeError", "carry_wan", "die_with", "flush", "is_left", "probe"]

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

    @staticmethod
    def take_over(config: bytes, link: int, within_ms: int) -> Edge:
        """Serve in place of the edge at the other end of `link`, with its sockets, snapshot and UDP sessions."""

    def hand_over(self, link: int, within_ms: int) -> int:
        """Give all but TCP connections to the edge that takes over at the other end; answers how many sessions went.

        Raises NativeError if it does not serve in the end: this edge goes on as if nothing had been.
        """

    def pulse(self, beat: int) -> None:
        """Write a byte to the socket `beat` for as long as a worker takes its turns; ends when nobody reads."""

    def apply(self, snapshot: bytes) -> bytes:
        """Do what the snapshot says, and nothing else; answers an ApplyReport. Raises NativeError."""

    def observe(self, max_events: int) -> bytes:
        """A Report; takes up to `max_events` records out of the event rings."""

    def skip_events(self, keep: int) -> int:
        """Pass over the records that wait, but for the last `keep` of each worker; answers how many."""

    def put_blob(self, kind: str, content: bytes, *, overlaps: bool = False, private: bool = False) -> bytes:
        """Take a list of prefixes (`list`) or a database (`asn`, `country`) in; answers its digest and what it holds.

        Raises NativeError: what is wrong with it, with the line; nothing was changed.
        """

    def has_blob(self, digest: str) -> bool:
        """Whether a snapshot may name this digest."""

    def rule_hits(self) -> bytes:
        """Rules of the firewall that have decided something: a list of rule, hits, last_ms (Unix time)."""

    def explain(self, application: str, client: str, port: int) -> bytes:
        """What the rules say of this client; `null` where the application has no firewall."""

    def identify(self, identity: bytes) -> None:
        """Be this to other edges from the next connection on: JSON of ca, certificate and key, each PEM.

        Raises NativeError if it cannot be used; what it was before stays.
        """

    def steer(self, plan: bytes) -> None:
        """Have flows of steered applications take the ways of this plan, and measure what it asks for, for its time.

        Raises:
            NativeError: `refused`; what was wanted before goes on.
        """

    def guard_look(self, max_samples: int) -> bytes:
        """A Look: what guard, engine and fast path have seen, and samples since the last look."""

    def mitigate(self, plan: bytes) -> bytes:
        """Make this Plan all that automatic mitigation asks for; answers a PlanReport.

        Raises NativeError if it is no plan, or the edge has stopped: the plan before stays in force.
        """

    def mitigation(self) -> bytes:
        """The Plan in force; of an earlier process, if that has left one and none came since."""

    def drain(self, deadline_ms: int) -> int:
        """Close listeners, wait for flows of the engine, cut what is left; answers how many were cut."""

@final
class NameServer:
    """Authoritative DNS in a thread of its own, which never takes the GIL."""

    @staticmethod
    def start(listen: list[str]) -> NameServer:
        """Listen on these, such as `192.0.2.1:53` or `[::]:53`, UDP and TCP; without a table every answer is SERVFAIL.

        Raises NativeError: one cannot be listened on, and then none is.
        """

    def set_table(self, table: bytes) -> bytes:
        """Answer by this table (see model/names.py) from now on; tells its serial and how much is in it.

        Raises NativeError: it is no table, and the one before stays.
        """

    def set_places(self, mmdb: bytes | None) -> None:
        """Know by this MMDB file where clients are; None: know nothing.

        Raises NativeError: it is none, and the one before stays.
        """

    def counters(self) -> bytes:
        """Questions and what became of them since the start, and the table that is in use."""

    def stop(self) -> None:
        """Close the sockets, and return once they are."""

def carry_wan(world: bytes, listener: int) -> None:
    """Be the WAN of a lab until the process ends; commands come by the Unix socket `listener`.

    Raises NativeError: a refused world, or a device that cannot be had.
    """

def flush(state_dir: str) -> int:
    """Take what an edge with this state directory has left in the kernel away; answer how much that was."""

def is_left(state_dir: str) -> bool:
    """Whether an edge with this state directory has left anything in the kernel."""

def probe() -> bytes:
    """What this machine can do: a list of name, available, detail."""

def die_with(parent: int) -> bool:
    """Be killed when the process `parent` ends, which started this one. False if it has ended already."""
