"""One application over many looks: how much of what comes to it, and how much of that is too much. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from causeway.guard.history import History, Thresholds
from causeway.guard.pace import DROPS, INVITED, MachinePace, Pace, pace
from causeway.guard.packet import Packet
from causeway.guard.reservoir import Reservoir
from causeway.guard.symptoms import Symptoms, symptoms_of
from causeway.guard.vector import STRAYS, Vector, bounds_of, vector_of
from causeway.model.mitigation import Guarded, Sample

TICK_MS = 1_000
_TICK_FROM_S = 0.95  # a look that comes a little early ends a tick all the same
_RECENT_MS = 3_000
_MOST_RECENT = 2_000
_TICKS, _TICKS_OVER = 3, 2
_BROKEN = ("malformed", "illegal")  # dropped whatever is held
_SURE = 2.0  # standard deviations of a count of samples
_ENOUGH_SAMPLES = 50  # of one look; with fewer, those of the last second are taken too


class Seen(NamedTuple):
    """A sample, read."""

    at_ms: int
    packet: Packet
    frame: str
    vector: Vector
    is_good: bool  # of what has gone both ways, or let in: good packets are learnt from it
    is_invited: bool
    is_kept_out: bool


def seen(of: Sample, packet: Packet) -> Seen:
    """The ACK that ends a handshake is of a connection, but may be forged: no stray, and nothing to learn from."""
    is_kept_out = of.verdict in DROPS or of.verdict == "cookie_sent"
    vector: Vector = "broken" if of.verdict in _BROKEN else vector_of(packet)
    is_good = of.is_established or of.verdict in INVITED
    is_invited = is_good or (of.is_open and vector in STRAYS)
    return Seen(of.at_ms, packet, of.frame, vector, is_good, is_invited, is_kept_out)


class _Counted(NamedTuple):
    at_ms: int
    judged: float
    invited: float
    samples: Counter[tuple[Vector, bool]]  # uninvited; whether they were kept out
    invited_samples: int


@dataclass(slots=True)
class Watched:
    """`rates` are per second and of uninvited packets alone, but for `syn`, which are connections asked for."""

    application: str
    protocol: str
    good: Reservoir
    pace: Pace
    newcomers: History = field(default_factory=History)
    carried: History = field(default_factory=History)
    rates: dict[Vector, float] = field(default_factory=dict)
    kept_out: dict[Vector, float] = field(default_factory=dict)  # share of each, 0 to 1
    uninvited: float = 0.0
    recent: dict[Vector, deque[Seen]] = field(default_factory=dict)
    symptoms: Symptoms = field(default_factory=Symptoms)
    tick: dict[str, float] | None = None  # rates of the second that the last look ended, if it did
    asked_before: float = 0.0  # as `asked`, one look ago
    _least_syns: float = 0.0  # per second, whatever chance has done to the samples
    _before: Guarded | None = None
    _counted: deque[_Counted] = field(default_factory=deque)
    _ticks: dict[Vector, deque[bool]] = field(default_factory=dict)
    _is_still: bool = False  # nothing came, and nothing is remembered that could have become too old
    _tick_s: float = 0.0  # that have gone by of the tick
    _sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @staticmethod
    def new(of: Guarded, good: Reservoir) -> Watched:
        return Watched(of.application, of.protocol, good, Pace(of.application, of.protocol, 1.0), _before=of)

    @property
    def asked(self) -> float:
        """Connections, or first datagrams, that somebody surely asked for: few samples prove little."""
        return max(self.pace.newcomers, self._least_syns) if self.protocol == "tcp" else self.pace.newcomers

    @property
    def has_sessions(self) -> bool:
        """Somebody stays. Where nobody does, datagrams of nobody say little: each asks once, and is answered or not."""
        return self.protocol != "udp" or bool(self.good.of("udp"))

    def threshold(self, vector: Vector, thresholds: Thresholds) -> float:
        history = {"syn": self.newcomers, "udp": self.carried}.get(vector)
        return bounds_of(vector, thresholds).threshold(history.usual() if history else None)

    def look(
        self, of: Guarded, samples: Sequence[Seen], over_s: float, at_ms: int, machine: MachinePace, bounds: Thresholds
    ) -> None:
        """Take in what one look tells of it."""
        before, self._before = self._before or of, of
        self.asked_before = self.asked
        if self._is_still and of == before and not samples:  # as most are most of the time
            self._end_tick(over_s, bounds)
            return
        self.pace = pace(before, of, over_s)
        self._count(samples, at_ms)
        most_open, uninvited = self.threshold("syn", bounds), self.uninvited if self.has_sessions else None
        self.symptoms = symptoms_of(self.pace, self.asked_before, self.asked, uninvited, machine, most_open)
        self._end_tick(over_s, bounds)
        is_moving = of != before or self.asked_before or any(self.recent.values())
        self._is_still = not is_moving

    def is_over(self, vector: Vector, bounds: Thresholds) -> bool:
        return self._is_over(vector, self.rates.get(vector, 0.0), self.pace.newcomers, bounds)

    def is_over_cap(self, vector: Vector, bounds: Thresholds) -> bool:
        return self.rates.get(vector, 0.0) > bounds_of(vector, bounds).cap

    def is_lasting(self, vector: Vector, bounds: Thresholds) -> bool:
        """Two of three seconds were too much, or one was more than can be anything else."""
        if self.tick and self.tick.get(vector, 0.0) > bounds_of(vector, bounds).cap:
            return True
        return sum(self._ticks.get(vector, ())) >= _TICKS_OVER

    def learn(self, at_ms: int) -> None:
        """The second that is over was without an attack: remember what it was like."""
        if self.tick is not None:
            self.newcomers.add(self.tick.get("newcomers", 0.0), at_ms / 1_000)
            self.carried.add(self.tick.get("carried", 0.0), at_ms / 1_000)

    def packets(self, vector: Vector) -> list[Packet]:
        """What came uninvited in the last seconds, as far as it was sampled."""
        return [one.packet for one in self.recent.get(vector, ())]

    def last_second(self) -> Iterator[Seen]:
        """What came uninvited, as far as it was sampled."""
        since_ms = self._counted[-1].at_ms - TICK_MS if self._counted else 0
        for line in self.recent.values():
            yield from (one for one in line if one.at_ms > since_ms)

    def frames(self, vector: Vector, count: int) -> list[str]:
        return [one.frame for one in list(self.recent.get(vector, ()))[-count:]]

    def _count(self, samples: Sequence[Seen], at_ms: int) -> None:
        counts: Counter[tuple[Vector, bool]] = Counter()
        for one in samples:
            if one.is_invited:
                continue
            counts[one.vector, one.is_kept_out] += 1
            self.recent.setdefault(one.vector, deque(maxlen=_MOST_RECENT)).append(one)
        for line in self.recent.values():
            while line and at_ms - line[0].at_ms > _RECENT_MS:
                line.popleft()
        here, now = self.pace, len(samples)
        if not here.judged and not samples:
            self._counted.clear()
            self.uninvited, self.rates, self.kept_out, self._least_syns = 0.0, {}, {}, 0.0
            self._rate_flows()
            return
        self._counted.append(_Counted(at_ms, here.judged, here.invited, counts, now - counts.total()))
        while len(self._counted) > 1 and at_ms - self._counted[0].at_ms >= TICK_MS:
            self._counted.popleft()
        self._rate(counts.total() + self._counted[-1].invited_samples >= _ENOUGH_SAMPLES)

    def _rate(self, is_enough: bool) -> None:
        taken = [self._counted[-1]] if is_enough else list(self._counted)
        counts = Counter(taken[0].samples)
        for one in taken[1:]:
            counts.update(one.samples)
        invited, uninvited = sum(one.invited_samples for one in taken), counts.total()
        # Verdicts are exact, but a guard that is asked for nothing does not look for flows: samples know those too.
        by_verdict = max(0.0, self.pace.judged - self.pace.invited)
        by_sample = self.pace.judged * uninvited / (invited + uninvited) if invited + uninvited else by_verdict
        self.uninvited = min(by_verdict, by_sample)
        self.rates, self.kept_out = {}, {}
        for vector in sorted({vector for vector, _ in counts}):
            out, through = counts[vector, True], counts[vector, False]
            self.rates[vector] = self.uninvited * (out + through) / uninvited
            self.kept_out[vector] = out / (out + through)
        syns = counts["syn", True] + counts["syn", False]
        self._least_syns = self.rates.get("syn", 0.0) * max(0.0, 1 - _SURE / math.sqrt(syns)) if syns else 0.0
        self._rate_flows()

    def _rate_flows(self) -> None:
        """Flows that were begun are known without a look at packets."""
        if self.protocol == "tcp":
            self.rates["syn"] = max(self.rates.get("syn", 0.0), self.pace.newcomers)
        elif self.protocol == "udp":
            self.rates["udp"] = max(self.rates.get("udp", 0.0), self.pace.newcomers)

    def _is_over(self, vector: Vector, rate: float, newcomers: float, bounds: Thresholds) -> bool:
        if not rate and not newcomers:  # as most are most of the time: no history need be asked
            return False
        if vector == "udp" and newcomers > self.threshold("syn", bounds):
            return True
        return rate > self.threshold(vector, bounds)

    def _usual_newcomers(self) -> float:
        """What may be learnt: connections that nobody completes train nothing. Some datagrams are never answered."""
        return min(self.pace.newcomers, self.pace.established) if self.protocol == "tcp" else self.pace.newcomers

    def _end_tick(self, over_s: float, bounds: Thresholds) -> None:
        self._tick_s += over_s
        for name, rate in (*self.rates.items(), ("newcomers", self._usual_newcomers()), ("carried", self.pace.carried)):
            self._sums[name] += rate * over_s
        if self._tick_s < _TICK_FROM_S:
            self.tick = None
            return
        self.tick = {name: total / self._tick_s for name, total in self._sums.items()}
        for vector in {*self._ticks, *self.rates}:
            ticks = self._ticks.setdefault(vector, deque(maxlen=_TICKS))
            ticks.append(self._is_over(vector, self.tick.get(vector, 0.0), self.tick["newcomers"], bounds))
        self._sums.clear()
        self._tick_s = 0.0


def by_application(samples: Iterable[tuple[str, Seen]]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for application, one in samples:
        found.setdefault(application, []).append(one)
    return found
