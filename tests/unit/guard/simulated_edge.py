"""An edge in virtual time: streams of packets come in, the plan in force judges them, looks go out.

The guard's order of verdicts, its sampling and the counts are those of the real one, as far as these tests need them:
open flows first, then rules, rates, cookies and state. Kernel and engine are not simulated beyond that; tests/attacks
has the real ones.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from guard_frames import ACK, PSH, STACKS, SYN, tcp, udp

from causeway.guard.match import compiled
from causeway.guard.mitigator import Decision, Mitigator
from causeway.guard.packet import UDP, Packet, read
from causeway.guard.vector import STRAYS, vector_of
from causeway.model.mitigation import (
    Attack,
    Guarded,
    Look,
    Plan,
    RuleCount,
    Sample,
    Sensitivity,
    Signals,
    System,
)  # fmt: skip

Draw = Callable[[random.Random], bytes]
EDGE = "198.51.100.10"
_MOST_DRAWN = 200  # of a stream in a look: the rest is as these


@dataclass(slots=True)
class Stream:
    """`completes`: SYNs that become connections, first datagrams that are answered."""

    application: str
    draw: Draw
    per_s: float
    is_invited: bool = False
    is_open: bool = False  # of something that was asked for: the ACK that ends a handshake
    is_hidden: bool = False  # invited, but the kernel does not know: a session of the engine
    completes: bool = False
    protocol: str = "tcp"
    since_s: float = 0.0
    until_s: float = float("inf")
    carry: float = 0.0

    def due(self, from_s: float, to_s: float) -> int:
        over_s = max(0.0, min(to_s, self.until_s) - max(from_s, self.since_s))
        self.carry += self.per_s * over_s
        whole = int(self.carry)
        self.carry -= whole
        return whole


@dataclass(slots=True)
class Edge:
    """`is_fast`: SYNs are carried by the fast path, so the engine's signals know them."""

    is_guarded: bool = False  # by the operator: always attached
    is_fast: bool = True
    ms: int = 1_000_000
    plan: Plan = field(default_factory=Plan)
    streams: list[Stream] = field(default_factory=list)
    numbers: random.Random = field(default_factory=lambda: random.Random(1))
    mitigator: Mitigator = field(default_factory=Mitigator)
    sensitivities: dict[str, Sensitivity] = field(default_factory=dict)
    is_enabled: bool = True
    missing: str | None = None
    packets: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    signals: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    system: Counter[str] = field(default_factory=Counter)
    hits: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    cpu_busy: float = 0.1
    attacks: dict[str, Attack] = field(default_factory=dict)
    plans: list[tuple[float, Plan]] = field(default_factory=list)  # every change, with the time in s
    lost_good: int = 0  # packets of good streams that were dropped
    reached: int = 0  # packets of bad streams that came through
    _samples: list[Sample] = field(default_factory=list)
    _was_alert: bool = False

    @property
    def s(self) -> float:
        return (self.ms - 1_000_000) / 1_000

    def run(self, until_s: float) -> None:
        """Look as an agent does: four times a second, and soon after a suspicion."""
        while self.s < until_s - 1e-9:
            is_new = self.mitigator.is_alert and not self._was_alert
            self._was_alert = self.mitigator.is_alert
            self.pass_by(120 if is_new else 250)
            self.step()

    def step(self) -> Decision:
        decided = self.mitigator.step(self.look(), self.sensitivities, self.is_enabled, self.unix_ms)
        self.attacks |= {attack.id: attack for attack in decided.attacks}
        if decided.plan != self.plan:
            self.plan = decided.plan
            self.plans.append((self.s, self.plan))
        return decided

    @property
    def unix_ms(self) -> int:
        return 1_700_000_000_000 + self.ms

    @property
    def is_attached(self) -> bool:
        return self.missing is None and (self.is_guarded or self.plan != Plan())

    def pass_by(self, ms: int) -> None:
        from_s, self.ms = self.s, self.ms + ms
        for stream in self.streams:
            count = stream.due(from_s, self.s)
            if count:
                self._arrive(stream, count)

    def look(self) -> Look:
        applications = sorted({(stream.application, stream.protocol) for stream in self.streams})
        guarded = [
            Guarded(name, protocol, dict(self.packets[name]), {}, {}, Signals(**self.signals[name]))
            for name, protocol in applications
        ]
        samples, self._samples = self._samples, []
        rules = [RuleCount(rule.id, *self.hits[rule.id]) for rule in self.plan.rules]
        system = System(**self.system, cpu_busy=self.cpu_busy)
        return Look(self.ms, self.is_attached, self.missing, guarded, system, rules, samples)

    def _arrive(self, stream: Stream, count: int) -> None:
        self.system["received_packets"] += count
        is_known = stream.is_invited and not stream.is_hidden
        is_open = is_known or stream.is_open
        is_attached, every = self.is_attached, self.plan.sample_every
        samples = min(self._sampled(count, every), _MOST_DRAWN)
        drawn = [stream.draw(self.numbers) for _ in range(min(count, max(samples, 10)))]
        verdicts = [self._verdict(stream, frame, count / len(drawn)) for frame in drawn] if is_attached else []
        passed = sum(verdict in ("passed", "established", "cookie_sent") for verdict, _ in verdicts)
        for at, (verdict, rule) in enumerate(verdicts):
            weight = count // len(drawn) + (at < count % len(drawn))
            self.packets[stream.application][verdict] += weight
            if verdict == "cookie_sent" and stream.completes:
                self.packets[stream.application]["cookie_taken"] += weight
            is_good = stream.is_invited or stream.is_open or stream.completes
            self.lost_good += weight if is_good and verdict not in ("passed", "established", "cookie_sent") else 0
            self.reached += weight if not is_good and verdict == "passed" else 0
            if at < samples:
                frame = drawn[at]
                one = Sample(
                    self.ms, stream.application, verdict, len(frame), frame[:128].hex(), is_known, is_open, rule
                )
                self._samples.append(one)
        share = passed / len(verdicts) if verdicts else 1.0
        self._signal(stream, round(count * share), read(drawn[0]))

    def _sampled(self, count: int, every: int) -> int:
        """Each packet is as likely to be taken as the next; how many of `count` are, differs."""
        if not every:
            return 0
        spread = (count / every * (1 - 1 / every)) ** 0.5
        return min(count, max(0, round(self.numbers.gauss(count / every, spread))))

    def _signal(self, stream: Stream, count: int, packet: Packet | None) -> None:
        assert packet is not None
        told = self.signals[stream.application]
        if stream.is_invited:
            told["packets"] += 2 * count
        elif packet.is_syn or packet.protocol == UDP:
            held = any(hold.application == stream.application and hold.cookies for hold in self.plan.holds)
            if (self.is_fast and not held) or stream.completes:
                told["opened"] += count
            elif packet.is_syn and not held:
                self.system["cookies_sent"] += count
            told["established"] += count if stream.completes else 0

    def _verdict(self, stream: Stream, frame: bytes, weight: float) -> tuple[str, str | None]:
        packet = read(frame)
        assert packet is not None
        verdict, decided = "passed", None
        if packet.flags is not None and packet.flags & 0x29 == 0x29:
            return "illegal", None
        for rule in self.plan.rules:
            if rule.application != stream.application or not compiled(rule.match)(packet):
                continue
            self.hits[rule.id][0] += round(weight)
            self.hits[rule.id][1] += round(weight) if stream.is_invited else 0
            if rule.action == "drop":
                return ("established" if stream.is_invited else "rule_dropped"), rule.id
        holds = [hold for hold in self.plan.holds if hold.application == stream.application]
        if stream.is_open or (stream.is_invited and not stream.is_hidden):
            return ("established" if holds else "passed"), decided  # who is asked for nothing does not look for flows
        for hold in holds:
            vector = vector_of(packet)
            most = min((rate.per_s for rate in hold.rates if rate.of == "packets" and rate.ipv4 == 0), default=None)
            if most is not None and self.numbers.random() > most / max(stream.per_s, most):
                verdict = "rate"
            elif hold.cookies and vector == "syn":
                verdict = "cookie_sent"
            elif (hold.state or hold.cookies) and vector in STRAYS:
                verdict = "out_of_state"
            elif hold.no_fragments and vector == "fragment":
                verdict = "fragment"
        return verdict, decided


def address(numbers: random.Random) -> str:
    return f"{numbers.randint(1, 223)}.{numbers.randint(0, 255)}.{numbers.randint(0, 255)}.{numbers.randint(1, 254)}"


_people = random.Random(7)
CLIENTS = [(address(_people), _people.choice(STACKS), _people.randint(4, 24)) for _ in range(1_500)]


def good_syn(numbers: random.Random) -> bytes:
    source, stack, away = numbers.choice(CLIENTS)
    return tcp(
        source, EDGE, SYN, sport=numbers.randint(1_024, 65_535), hops=stack.hops - away, window=stack.window,
        options=stack.options, ident=0 if stack.zero_id else numbers.randint(1, 65_535),
    )  # fmt: skip


def good_ack(numbers: random.Random) -> bytes:
    """The one that ends a handshake."""
    source, stack, away = numbers.choice(CLIENTS)
    return tcp(source, EDGE, ACK, sport=numbers.randint(1_024, 65_535), hops=stack.hops - away)


def good_data(numbers: random.Random) -> bytes:
    source, stack, away = numbers.choice(CLIENTS)
    payload = numbers.randbytes(numbers.randint(0, 200))
    return tcp(
        source, EDGE, ACK | (PSH if payload else 0), sport=numbers.randint(1_024, 65_535), hops=stack.hops - away,
        window=numbers.randint(200, 2_000), payload=payload, ident=numbers.randint(1, 65_535),
    )  # fmt: skip


def good_datagram(numbers: random.Random) -> bytes:
    source, stack, away = numbers.choice(CLIENTS)
    payload = b"\x01" + numbers.randbytes(numbers.randint(20, 300))
    return udp(source, EDGE, sport=numbers.randint(1_024, 65_535), hops=stack.hops - away, payload=payload)


def people(application: str = "web", per_s: float = 200.0) -> list[Stream]:
    """Connections that are asked for and completed, and what is said on them."""
    return [
        Stream(application, good_syn, per_s, completes=True),
        Stream(application, good_data, per_s * 10, is_invited=True),
    ]


def talkers(application: str = "game", per_s: float = 20.0) -> list[Stream]:
    """The same with datagrams."""
    return [
        Stream(application, good_datagram, per_s, completes=True, protocol="udp"),
        Stream(application, good_datagram, per_s * 50, is_invited=True, protocol="udp"),
    ]


def spoofed_syn(numbers: random.Random) -> bytes:
    return tcp(
        address(numbers), EDGE, SYN, sport=numbers.randint(1, 65_535), hops=numbers.randint(30, 250),
        window=numbers.randint(1, 65_535), ident=numbers.randint(0, 65_535),
        options=numbers.choice((b"", b"\x02\x04\x05\xb4", STACKS[0].options)),
    )  # fmt: skip


def tool_syn(numbers: random.Random) -> bytes:
    """Of one tool: a window and a time to live of its own, no options."""
    return tcp(address(numbers), EDGE, SYN, sport=numbers.randint(1, 65_535), hops=241, window=512, ident=54_321)


def random_datagram(numbers: random.Random) -> bytes:
    return udp(
        address(numbers), EDGE, sport=numbers.randint(1, 65_535), hops=numbers.randint(30, 250),
        payload=numbers.randbytes(numbers.randint(1, 500)), ident=numbers.randint(0, 65_535),
    )  # fmt: skip


def tool_datagram(numbers: random.Random) -> bytes:
    payload = b"\xff\xff\xff\xffgetstatus" + numbers.randbytes(8)
    return udp(address(numbers), EDGE, sport=numbers.randint(1, 65_535), hops=numbers.randint(30, 250), payload=payload)


def stray_ack(numbers: random.Random) -> bytes:
    return tcp(address(numbers), EDGE, ACK, sport=numbers.randint(1, 65_535), hops=numbers.randint(30, 250))
