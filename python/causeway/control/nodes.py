"""Several control nodes over one database: which of them leads, and when this one has to read anew what is stored.

Two loops. One says that this node is there and takes or keeps the lease; the other reads the database, so that reading
it, however long that takes, costs no lease. Nobody leads beyond the time of a renewal that was answered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from sqlalchemy import Connection

from causeway import __version__
from causeway.store import leases
from causeway.store.database import Database, NotLeading, StoreError
from causeway.store.leases import Lease, Node

log = logging.getLogger(__name__)

LEASE_S = 5.0
_SLACK_S = 1.0  # so much earlier than the database says does a leader stop: clocks run at different speeds
_LOOK_S = 1.0
_AGAIN_S = 1.0  # between attempts to read what is stored
_RELEASE_S = 2.0
_STUCK_S = 10.0  # a look takes milliseconds, and 5 s where TCP gives up


class Move(Enum):
    FOLLOW = auto()
    TAKE = auto()
    KEEP = auto()
    GIVE_UP = auto()


def next_move(lease: Lease, others: Sequence[Node], held: int | None, unconnected_s: float) -> Move:
    """What a node does about the lease, that has the token `held`, if any.

    `unconnected_s`: for how long it has not been on the exchange. Such a one leaves it to those that are.
    """
    is_better = any(other.is_connected and other.silent_s < LEASE_S for other in others)
    if held is not None and lease.token == held:
        return Move.GIVE_UP if is_better and unconnected_s >= LEASE_S else Move.KEEP
    if lease.left_s >= 0:
        return Move.FOLLOW
    return Move.FOLLOW if is_better and unconnected_s > 0 else Move.TAKE


@dataclass(frozen=True, slots=True)
class Hold:
    """A lease that this node has: in its own time, and somewhat shorter than the database has it."""

    token: int
    until_s: float

    @staticmethod
    def of(token: int, asked_s: float) -> Hold:
        """`asked_s`: before the database was asked, so whatever took long is not counted in."""
        return Hold(token, asked_s + LEASE_S - _SLACK_S)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of the lease and of all nodes, as of a look at `at_s`."""

    lease: Lease
    nodes: tuple[Node, ...]
    at_s: float

    def leader(self, now_s: float) -> Lease | None:
        """Who leads, as far as that is known."""
        return self.lease if self.lease.left_s > now_s - self.at_s else None


class Exchange(Protocol):
    """What a node has to know of the exchange. `newest_term`: the latest that edges have seen."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def newest_term(self) -> int: ...


class Nodes:
    """This node among the others."""

    def __init__(
        self,
        database: Database,
        name: str,
        url: str,
        exchange: Exchange,
        take_up: Callable[[bool], None],
        network: str = "",
    ) -> None:
        """`take_up` reads the database anew, to lead or to follow. `network`: by which keys edges are certified."""
        self._database, self.name, self._url = database, name, url
        self._exchange, self._take_up = exchange, take_up
        self._network, self._network_there = network, network
        self._hold: Hold | None = None
        self._taken_up: int | None = None  # the token with which this node has read what is stored
        self.standing: Standing | None = None
        self.trouble: str | None = None
        self._connected_s = self._looked_s = _now_s()
        self._is_over = threading.Event()
        self._is_stopping = False
        self._is_behind = threading.Event()
        self._tending = threading.Thread(target=self._tend, name="lease", daemon=True)
        self._reading = threading.Thread(target=self._read, name="reading", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="lease-watch", daemon=True)
        database.fence = self._fence

    def start(self) -> None:
        self._tending.start()
        self._reading.start()
        self._watching.start()

    def stop(self) -> None:
        """Lead no more; the lease is given back meanwhile."""
        self._is_stopping = True
        self._is_over.set()
        self._is_behind.set()

    def join(self) -> None:
        if self._tending.is_alive():
            self._tending.join(_RELEASE_S)

    # ---- who leads ----

    @property
    def term(self) -> int | None:
        """The token of this node, while it leads and knows what is stored."""
        token = self._held
        return token if token == self._taken_up else None

    @property
    def _held(self) -> int | None:
        hold = self._hold
        return hold.token if hold and not self._is_stopping and _now_s() < hold.until_s else None

    def _fence(self) -> int:
        token = self._held
        if token is None:
            raise NotLeading(self.leader_text)
        return token

    @property
    def leader(self) -> Lease | None:
        return self.standing.leader(_now_s()) if self.standing else None

    @property
    def leader_text(self) -> str:
        """Where to turn."""
        lease = self.leader
        if lease and lease.holder != self.name:
            return f"this control node, {self.name}, does not lead: {lease.holder} does, ask {lease.url}"
        return f"no control node that is known here leads now: one will within {LEASE_S + 2 * _LOOK_S:.0f} s, try again"

    # ---- the lease ----

    def _tend(self) -> None:
        while not self._is_over.is_set():
            self._looked_s = _now_s()
            try:
                self._look(self._looked_s)
                self._note(self._disagreement())
            except StoreError as error:
                self._note(str(error))
            except Exception:  # whatever it is, the next look may go well; what is held runs out by itself
                log.exception("the lease could not be looked after")
            self._is_over.wait(_LOOK_S)
        self._give_back()

    def _watch(self) -> None:
        """A database that stands still does not answer, and who waits for it would wait for ever."""
        while not self._is_over.wait(_LOOK_S):
            if _now_s() - self._looked_s > _STUCK_S:
                self._database.cut()

    def _look(self, began_s: float) -> None:
        is_connected = self._exchange.is_connected
        if is_connected:
            self._connected_s = began_s
        with self._database.lease() as connection:
            leases.tell(connection, self.name, self._url, __version__, is_connected=is_connected)
            if self._network:
                self._network_there = leases.set_network(connection, self._network)
            lease, nodes = leases.read(connection), leases.every_node(connection)
            others = [node for node in nodes if node.name != self.name]
            mine = self._hold.token if self._hold else None
            match next_move(lease, others, mine, began_s - self._connected_s):
                case Move.TAKE if not self._disagreement():
                    seen = self._exchange.newest_term
                    self._now_hold(leases.take(connection, self.name, self._url, LEASE_S, seen), began_s)
                case Move.KEEP:
                    token = self._token_above_all(connection, lease.token)
                    is_kept = token is not None and leases.renew(connection, token, LEASE_S)
                    self._now_hold(token if is_kept else None, began_s)
                case Move.GIVE_UP:
                    log.warning("this node has lost the exchange and leaves it to another to lead")
                    self._now_hold(None, began_s)
                    leases.release(connection, lease.token)
                case _:
                    self._now_hold(None, began_s)
            self.standing = Standing(leases.read(connection), tuple(nodes), _now_s())
        if self.standing.lease.writes != self._database.known_writes or self._held != self._taken_up:
            self._is_behind.set()

    def _disagreement(self) -> str | None:
        if self._network == self._network_there:
            return None
        return (
            "this node has other keys of the network than the node before it, and will not lead: copy authority.json "
            "from the exchange folder of that one's --data-dir, and start again"
        )

    def _token_above_all(self, connection: Connection, token: int) -> int | None:
        """A token is larger than all that edges or the exchange have seen; else the database was set back."""
        if self._exchange.newest_term <= token:
            return token
        log.warning("edges have seen a later term than the database: it was set back, and is brought forward")
        return leases.raise_token(connection, token, self._exchange.newest_term)

    def _now_hold(self, token: int | None, asked_s: float) -> None:
        before = self._hold.token if self._hold else None
        self._hold = Hold.of(token, asked_s) if token is not None else None
        if token is not None and token != before:
            log.info("this node leads, term %d", token)
        elif token is None and before is not None:
            log.warning("this node does not lead any more")

    def _give_back(self) -> None:
        if self._hold is None:
            return
        try:
            with self._database.lease() as connection:
                leases.release(connection, self._hold.token)
        except StoreError as error:
            log.warning("the lease was not given back, and runs out: %s", error)

    def _note(self, trouble: str | None) -> None:
        if trouble and trouble != self.trouble:
            log.error("%s", trouble)
        self.trouble = trouble

    # ---- what is stored ----

    def _read(self) -> None:
        last = ""
        while True:
            self._is_behind.wait()
            self._is_behind.clear()
            if self._is_over.is_set():
                return
            token = self._held
            try:
                if token != self._taken_up or not self._database.is_known():
                    self._take_up(token is not None)
                self._taken_up, last = token, ""
            except Exception as error:  # whatever it is, what was read before holds, and the next try may go well
                if str(error) != last:
                    last = str(error)
                    log.error("what is stored could not be read: %s", error, exc_info=not isinstance(error, StoreError))
                self._is_over.wait(_AGAIN_S)
                self._is_behind.set()


def _now_s() -> float:
    """Goes on while the machine sleeps, as the database's clock does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
