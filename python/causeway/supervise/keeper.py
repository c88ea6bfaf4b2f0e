"""One serving process at all times: started again when it dies or hangs, replaced when asked.

Serves nothing itself and imports nothing that could fail; its pid is the one that systemd knows.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from causeway.supervise.beacon import DEVICE, Beacon
from causeway.supervise.child import Child
from causeway.supervise.door import Door, Visitor
from causeway.supervise.line import Word
from causeway.supervise.notify import Notify

log = logging.getLogger("causeway")

_TURN_S = 0.5  # it looks at least so often whether all is well; a beat comes sooner
_LATE_S = 0.5  # woken this much too late, the machine is overloaded or was asleep
_START_S = 60.0  # imports of a new process, on a slow disk
_HAND_OVER_S = 30.0  # the processes themselves give up after 10 s
_SERVES_S = 120.0  # a migration of the database may take a while, and traffic does not wait for it
_STEADY_S = 10.0  # a process that has served for so long did not die of its start
_MOST_PAUSE_S = 5.0
_DEATHS = 2  # of themselves, one soon after the other: what they served last is not served by the next one


class Upgrade:
    """A new process on its way to serve, and who waits for it."""

    def __init__(self, new: Child, old: Child | None, link: socket.socket) -> None:
        self.new, self.old, self.link = new, old, link
        self.deadline_s = new.started_s + _START_S
        self.is_handed_over = False
        self.refusal: str | None = None  # why the old process still serves


class Keeper:
    """The loop of the supervisor."""

    def __init__(
        self,
        arguments: Sequence[str],
        data_dir: Path,
        api: socket.socket,
        drain_s: float,
        leave_s: float = 0.0,
        beacon: Beacon | None = None,
    ) -> None:
        """`leave_s`: what a stop takes before connections begin to drain; `beacon`: it is lit while somebody serves."""
        self._arguments, self._api, self._drain_s = list(arguments), api, drain_s
        self._leave_s, self._beacon = leave_s, beacon
        self._selector = selectors.DefaultSelector()
        self._notify = Notify()
        self._environment = dict(os.environ)
        self._door = Door(data_dir, self._selector, self._on_request)
        self._serving: Child | None = None
        self._upgrade: Upgrade | None = None
        self._draining: list[Child] = []
        self._visitors: list[Visitor] = []
        self._start_at_s: float | None = None
        self._pause_s = 0.0
        self._deaths = 0  # of themselves, each within seconds of the start
        self._is_ready = False
        self._stops = 0
        self._exit_status = 0

    # ---- the loop ----

    def run(self) -> int:
        """Keep a process serving until a signal; answer the exit status."""
        self._listen_to_signals()
        self._serving = self._start(is_first=True)
        while self._serving or self._draining or self._upgrade or self._start_at_s is not None:
            due_s = time.monotonic() + _TURN_S
            if self._start_at_s is not None:
                due_s = min(due_s, self._start_at_s)
            for key, _ in self._selector.select(max(0.0, due_s - time.monotonic())):
                key.data()
            now_s = time.monotonic()
            if now_s - due_s > _LATE_S and self._serving:
                self._serving.excuse(now_s - due_s)
            self._reap()
            self._watch(now_s)
            self._tend_beacon(now_s)
        self._door.close()
        return self._exit_status

    def _listen_to_signals(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._signals = reader, writer
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, self._on_signals)

    def _on_signals(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals[0].recv(64):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stop()
                elif number == signal.SIGHUP:
                    log.info("SIGHUP: a new process takes over")
                    if refusal := self._begin_upgrade():
                        log.warning("%s", refusal)

    # ---- children ----

    def _start(self, link: socket.socket | None = None, is_first: bool = False) -> Child:
        # Once: if the next one dies as well, it was not that.
        distrusts_last = link is None and self._deaths == _DEATHS
        if distrusts_last:
            log.error(
                "what the last %d processes served is not served by the next one: they died of themselves", _DEATHS
            )
        child = Child(self._arguments, self._environment, self._api, os.getpid(), link, is_first, distrusts_last)
        self._selector.register(child.line, selectors.EVENT_READ, lambda: self._on_words(child))
        return child

    def _on_words(self, child: Child) -> None:
        words = child.hear()
        if words is None:
            self._selector.unregister(child.line)  # the end of the process itself comes as a signal
        for word in words or ():
            if not word.name:
                self._notify.alive()
            else:
                self._on_word(child, word)

    def _on_word(self, child: Child, word: Word) -> None:
        upgrade = self._upgrade
        match word.name:
            case "failed":
                child.failure = str(word.told.get("why", "it does not say why"))
            case "serving":
                self._on_serving(child, word)
            case "announces" if self._beacon:
                self._beacon.is_wanted = bool(word.told.get("is_lit"))
                self._tend_beacon(time.monotonic())
            case "prepared" if upgrade and child is upgrade.new:
                self._hand_over(upgrade)
            case "handed_over" if upgrade and child is upgrade.old:
                self._on_handed_over(upgrade)
            case "kept" if upgrade and child is upgrade.old:
                upgrade.refusal = str(word.told.get("why"))
                upgrade.new.deadline_s = time.monotonic() + 0.5  # for its own words
            case _:
                pass

    def _on_serving(self, child: Child, word: Word) -> None:
        child.has_served, child.version = True, str(word.told.get("version", "?"))
        control = word.told.get("control")
        log.info("process %d serves, version %s", child.pid, child.version)
        upgrade = self._upgrade
        if upgrade and child is upgrade.new:
            old = upgrade.old
            self._finish(done={
                "old": {"version": old.version, "pid": old.pid} if old else None,
                "new": {"version": child.version, "pid": child.pid},
                "control": control,
            })  # fmt: skip
        if not self._stops:
            self._is_ready = True
            self._notify.ready(f"version {child.version}, process {child.pid}")

    def _reap(self) -> None:
        for child in [*self._draining, *([self._serving] if self._serving else [])]:
            if child.status() is not None:
                self._on_end(child)
        upgrade = self._upgrade
        if upgrade and not upgrade.is_handed_over and upgrade.new.status() is not None:
            self._forget(upgrade.new)
            why = upgrade.new.failure or upgrade.refusal or upgrade.new.how_it_ended()
            self._finish(failed=f"the new process did not start: {why}. The old one serves on")

    def _forget(self, child: Child) -> None:
        """Hear its last words and let go of it."""
        for word in child.hear() or ():
            self._on_word(child, word)
        if child.line.fileno() in self._selector.get_map():
            self._selector.unregister(child.line)
        child.line.close()

    def _on_end(self, child: Child) -> None:
        self._forget(child)
        if child in self._draining:
            self._draining.remove(child)
            log.info("process %d has drained and ended", child.pid)
            return
        self._serving = None
        if self._stops:
            return
        status = child.status()
        if not self._is_ready and not child.is_beating and status is not None and status > 0:
            self._exit_status = status  # it has said why, and would say it again
            return
        if self._upgrade and self._upgrade.is_handed_over and self._upgrade.new is child:
            self._finish(failed=f"the new process took over and ended: {child.how_it_ended()}")
        lived_s = time.monotonic() - child.started_s
        if child.died_of_itself:
            self._deaths = 1 if lived_s > _STEADY_S else self._deaths + 1
        self._pause_s = 0.0 if lived_s > _STEADY_S else min(max(0.1, self._pause_s * 2), _MOST_PAUSE_S)
        # The first time at once: whatever it was, the next one may be spared.
        pause_s = 0.0 if self._pause_s <= 0.1 else self._pause_s
        self._start_at_s = time.monotonic() + pause_s
        log.error("process %d is gone (%s); the next one starts in %.1f s", child.pid, child.how_it_ended(), pause_s)
        self._notify.status("the serving process died and is started again")

    def _watch(self, now_s: float) -> None:
        if self._start_at_s is not None and now_s >= self._start_at_s:
            self._start_at_s = None
            if not self._stops:
                self._serving = self._start()
        upgrade = self._upgrade
        if upgrade and now_s > upgrade.deadline_s:
            if upgrade.is_handed_over:
                self._finish(failed="the new process has the traffic, but its API does not come up")
            else:
                upgrade.refusal = upgrade.refusal or "it was not ready in time"
                upgrade.new.kill()
        everybody = [*self._draining, *(c for c in (self._serving, upgrade.new if upgrade else None) if c)]
        for child in everybody:
            if child.deadline_s is not None and now_s > child.deadline_s:
                child.kill()
        if self._serving and self._serving.hangs(now_s):
            log.error("process %d hangs: it is killed and replaced", self._serving.pid)
            self._serving.kill_as_it_hangs()

    def _tend_beacon(self, now_s: float) -> None:
        if self._beacon is None:
            return
        is_serving = any(child.is_beating for child in (self._serving, *self._draining) if child)
        if self._beacon.tend(now_s, is_serving=is_serving):
            log.info("%s is %s", DEVICE, "up: routes lead here" if self._beacon.is_lit else "down: no route leads here")

    # ---- replacing ----

    def _on_request(self, visitor: Visitor, request: str) -> None:
        if request != "upgrade":
            visitor.tell(failed=f"this causeway does not know the request {request!r}")
        elif refusal := self._begin_upgrade():
            visitor.tell(failed=refusal)
        else:
            self._visitors.append(visitor)
            return self._progress("a new process starts")
        self._door.show_out(visitor)
        return None

    def _begin_upgrade(self) -> str | None:
        """Start a new process; answer why not."""
        if self._stops:
            return "causeway is stopping: nothing can take over any more"
        if self._upgrade:
            return "another upgrade is under way: wait for it to end"
        if self._serving is None or not self._serving.has_served:
            return "the running process does not serve yet: try again in a moment"
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._notify.reloading()
        with there:
            new = self._start(link=there)
        self._upgrade = Upgrade(new, self._serving, here)
        return None

    def _hand_over(self, upgrade: Upgrade) -> None:
        self._progress(f"process {upgrade.new.pid} is prepared and takes over")
        upgrade.deadline_s = time.monotonic() + _HAND_OVER_S
        if upgrade.old:
            upgrade.old.line.say("hand_over", upgrade.link)
        upgrade.link.close()

    def _on_handed_over(self, upgrade: Upgrade) -> None:
        upgrade.is_handed_over = True
        upgrade.deadline_s = time.monotonic() + _SERVES_S
        if upgrade.old:
            upgrade.old.deadline_s = time.monotonic() + self._drain_s + 5
            self._draining.append(upgrade.old)
        self._serving = upgrade.new
        self._progress(f"process {upgrade.new.pid} has the traffic; it opens the API")

    def _finish(self, **told: object) -> None:
        upgrade, self._upgrade = self._upgrade, None
        if upgrade is None:
            return
        upgrade.link.close()
        if "failed" in told:
            log.error("upgrade: %s", told["failed"])
            if not self._stops and self._is_ready:
                self._notify.ready("the last upgrade failed, the old version serves")
        for visitor in self._visitors:
            visitor.tell(**told)
            self._door.show_out(visitor)
        self._visitors.clear()

    def _progress(self, what: str) -> None:
        log.info("upgrade: %s", what)
        for visitor in self._visitors:
            visitor.tell(progress=what)

    # ---- stopping ----

    def _stop(self) -> None:
        """Drain everything; asked again, cut it."""
        self._stops += 1
        drain_s = self._drain_s if self._stops == 1 else 0.0
        deadline_s = time.monotonic() + drain_s + (1.0 + self._leave_s if self._stops == 1 else 3.0)
        self._notify.stopping()
        self._start_at_s = None
        upgrade = self._upgrade
        if upgrade and not upgrade.is_handed_over:
            upgrade.refusal = "causeway was told to stop"
            upgrade.new.kill()
        for child in [*self._draining, *([self._serving] if self._serving else [])]:
            child.deadline_s = min(deadline_s, child.deadline_s or deadline_s)
            if child in self._draining and self._stops == 1:
                continue  # it drains already
            if not (child.is_beating and child.line.say("drain", drain_s=drain_s)):
                child.kill()
