"""From what an edge's guard tells to what it is to hold: the decisions, in the order of what they cost.

Pure: looks and times come in, a plan and attacks come out. First what can hurt nobody, at once: cookies for SYNs, state
for TCP of no connection, rates for datagrams that nobody answers. Then, if that lasts, rules that say what an attack's
packets have in common, each proven on good packets and tried for a second. Nothing is done against volume alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from causeway.guard.attacks import MOST_EVIDENCE, Looks, Ongoing, Sort, looks_of
from causeway.guard.carpet import Carpet, carpets
from causeway.guard.fingerprint import find, sentence
from causeway.guard.history import THRESHOLDS, Thresholds
from causeway.guard.holds import Holds, fair_rates
from causeway.guard.pace import BANNED, MachinePace, machine_pace
from causeway.guard.packet import read
from causeway.guard.reservoir import MOST, Reservoir
from causeway.guard.rules import Rules
from causeway.guard.suspicion import Suspicion
from causeway.guard.vector import STRAYS, Vector
from causeway.guard.watched import TICK_MS, Watched, by_application, seen
from causeway.model.mitigation import REST, Attack, Look, MitigationState, Plan, Sensitivity

_MOST_GOOD = 100_000  # good packets of all applications
_OVER_MS = 60_000  # quiet for so long, an attack is over
_MISSING_MS = 60_000  # what this machine could not do is tried again after that
_LEAST_S = 0.1  # between two looks, so that a rate means something
_PRESSED_PER_S = 100.0
_PRESSED_MOST_PER_S = 2_000.0  # strangers of whom a worker of the engine takes as many whatever else it has to do
_SEARCH_MS, _NEXT_RULE_MS = 5_000, 2_000
_CARPET_SHARE = 20  # each of its applications may have this part of what one alone might


class Decision(NamedTuple):
    plan: Plan
    attacks: list[Attack]  # those that go on, and those that this look ended


class _Now(NamedTuple):
    ms: int  # monotonic
    unix_ms: int
    over_s: float  # since the last look


class Mitigator:
    """Of one edge."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}
        self._attacks: dict[tuple[str, Sort], Ongoing] = {}
        self._rules, self._holds, self._suspicion = Rules(), Holds(), Suspicion()
        self._before: Look | None = None
        self._quiet_unix_ms: int | None = None  # the last look at which nothing was wrong
        self._is_enabled = True
        self._missing: tuple[str, int] | None = None  # why nothing can be judged here, and until when that is believed
        self._without_cookies: frozenset[str] = frozenset()  # applications
        self._tick_s = self._received = 0.0  # of the second that goes on

    def adopt(self, plan: Plan, at_ms: int, now_unix_ms: int) -> None:
        """Go on with a plan that is in force: an earlier process made it."""
        self._rules.adopt(plan.rules, at_ms, now_unix_ms)
        self._holds.adopt(plan.holds, at_ms)
        self._suspicion.sample_every = plan.sample_every
        if plan.is_watching or plan.holds or plan.rules:
            self._suspicion.suspect(at_ms)

    def step(
        self, look: Look, sensitivities: Mapping[str, Sensitivity], is_enabled: bool, now_unix_ms: int
    ) -> Decision:
        """Decide anew. An application that is not named is of medium sensitivity."""
        self._is_enabled = is_enabled
        before = self._before or look
        now = _Now(look.at_ms, now_unix_ms, (look.at_ms - before.at_ms) / 1_000)
        self._meet(look)
        if look.missing is not None:
            self._missing = look.missing, now.ms + _MISSING_MS
        elif self._missing and now.ms >= self._missing[1]:
            self._missing = None
        if not is_enabled:
            self._before = look
            return Decision(Plan(), self._end_all())
        bounds = {
            guarded.application: THRESHOLDS[sensitivity]
            for guarded in look.applications
            if (sensitivity := sensitivities.get(guarded.application, "medium")) != "off"
        }
        if now.over_s < _LEAST_S:  # the first one, or somebody has changed what is wanted: it is no measurement
            self._before = before
            ended = self._end_all_but(set(bounds))
            return Decision(self._plan(look, 0.0), ended)
        self._before = look
        machine = machine_pace(before.system, look.system, now.over_s)
        self._take_in(look, now, machine, bounds)
        self._rules.count(look.rules, now.ms)
        ended = self._end_all_but(set(bounds))
        self._suspect(machine, bounds, now)
        covered = self._defend_networks(bounds, now)
        for application in sorted(bounds.keys() - covered):
            self._defend(self._watched[application], bounds[application], look, now)
        self._holds.expire(now.ms)
        ended += self._end_quiet(now)
        self._learn(machine, now)
        if not self._attacks:
            self._quiet_unix_ms = now_unix_ms
        going_on = [ongoing.told(is_over=False) for ongoing in self._attacks.values()]
        return Decision(self._plan(look, machine.received), going_on + ended)

    def note_refused(self, refused: Mapping[str, str]) -> None:
        """What the engine said of the last plan: where cookies cannot be had, SYNs are to be limited instead."""
        cookies = {hold.application for hold in self._holds.planned() if hold.cookies}
        self._without_cookies |= cookies & refused.keys()

    def state(self, refused: Mapping[str, str] | None = None) -> MitigationState:
        """What people are told of it; `refused` is the engine's word on the last plan."""
        look = self._before
        return MitigationState(
            is_enabled=self._is_enabled,
            is_attached=look is not None and look.is_attached,
            missing=self._missing[0] if self._missing else None,
            rules=[living.state() for living in self._rules],
            holds=self._holds.planned(),
            refused=dict(refused or {}),
        )

    @property
    def is_alert(self) -> bool:
        """Something is suspected: look often."""
        return bool(self._attacks) or (self._before is not None and self._suspicion.is_alert(self._before.at_ms))

    def _meet(self, look: Look) -> None:
        there = {guarded.application: guarded for guarded in look.applications}
        for gone in self._watched.keys() - there.keys():
            del self._watched[gone]
        for application, guarded in there.items():
            if application not in self._watched:
                self._watched[application] = Watched.new(guarded, Reservoir(MOST, seed=len(self._watched)))

    def _take_in(self, look: Look, now: _Now, machine: MachinePace, bounds: Mapping[str, Thresholds]) -> None:
        samples = []
        for sample in look.samples:
            watched = self._watched.get(sample.application)
            packet = read(bytes.fromhex(sample.frame)) if watched else None
            if watched is None or packet is None or sample.verdict == BANNED:
                continue
            one = seen(sample, packet)
            samples.append((sample.application, one))
            for good in watched.good.add(packet, one.is_good):
                self._rules.see_good(sample.application, good, now.ms)
        told = by_application(samples)
        for guarded in look.applications:
            name = guarded.application
            within = bounds.get(name, THRESHOLDS["medium"])
            self._watched[name].look(guarded, told.get(name, []), now.over_s, now.ms, machine, within)
        if samples:
            self._make_room()

    def _make_room(self) -> None:
        full = [watched.good for watched in self._watched.values() if len(watched.good)]
        if sum(map(len, full)) > _MOST_GOOD:
            for good in full:
                good.shrink(max(1_000, _MOST_GOOD // len(full)))

    def _suspect(self, machine: MachinePace, bounds: Mapping[str, Thresholds], now: _Now) -> None:
        if not bounds:
            return
        self._suspicion.look(machine, now.ms)
        for application, within in bounds.items():
            watched = self._watched[application]
            is_over = any(watched.is_over(vector, within) for vector in watched.rates)
            if is_over or watched.pace.pressed > _PRESSED_PER_S:
                self._suspicion.suspect(now.ms)

    def _defend(self, watched: Watched, within: Thresholds, look: Look, now: _Now) -> None:
        """One application: whatever there is too much of, and does harm."""
        for vector in list(watched.rates):
            if not watched.is_over(vector, within):
                continue
            if vector == "udp" and not watched.recent.get("udp") and look.missing is None:
                continue  # flows alone say too little; the kernel looks from now on
            is_harmful = watched.symptoms.gate(vector)
            if not is_harmful and not watched.is_over_cap(vector, within):
                continue
            attack = self._begin(watched.application, vector, now)
            self._see(attack, watched, vector, now)
            self._hold(watched, vector, within, now)
            if is_harmful and watched.tick is not None and watched.is_lasting(vector, within):
                self._make_rule(attack, watched, vector, now)
            attack.note(self._rules.of(attack.id))

    def _begin(self, application: str, sort: Sort, now: _Now) -> Ongoing:
        known = self._attacks.get((application, sort))
        if known is None:
            started = self._quiet_unix_ms if self._quiet_unix_ms is not None else now.unix_ms
            known = self._attacks[application, sort] = Ongoing(application, sort, started, now.unix_ms)
        return known

    def _see(self, attack: Ongoing, watched: Watched, vector: Vector, now: _Now) -> None:
        attack.see(watched.rates[vector], watched.kept_out.get(vector, 0.0), now.over_s, now.unix_ms)
        if watched.tick is not None or not attack.evidence:
            attack.looks = looks_of(vector, watched.packets(vector), watched.symptoms.unfinished)
        if len(attack.evidence) < MOST_EVIDENCE:
            attack.evidence = watched.frames(vector, MOST_EVIDENCE)

    def _hold(self, watched: Watched, vector: Vector, within: Thresholds, now: _Now) -> None:
        """The cheapest answer that is right whatever the packets look like."""
        name, need = watched.application, self._holds.need
        if vector == "broken":
            return  # dropped as it is
        if name == REST or vector in ("icmp", "other"):
            without_ports = fair_rates("packets", within.uninvited.floor, spares_returning=False)
            need(name, "rates", now.ms, without_ports)
        elif vector == "udp":
            most = watched.threshold("udp", within)
            if watched.pace.pressed > _PRESSED_PER_S:  # what is let through beyond that only keeps sessions waiting
                most = min(most, _PRESSED_MOST_PER_S)
            need(name, "rates", now.ms, fair_rates("packets", most))
        elif vector in STRAYS:
            need(name, "state", now.ms)
        elif vector == "fragment":
            if not any(packet.is_fragment for packet in watched.good):  # who gets some in peace needs them
                need(name, "no_fragments", now.ms)
        elif name in self._without_cookies:
            need(name, "rates", now.ms, fair_rates("syns", watched.threshold("syn", within)))
        else:
            # Whoever completes connections has proven its address: that is for the engine's detectors, which judge each
            # source by what it does. A share for each address would take most from who has most to do.
            need(name, "cookies", now.ms)

    def _make_rule(self, attack: Ongoing, watched: Watched, vector: Vector, now: _Now) -> None:
        # One after the other: what is left is looked at when the last one works.
        living = self._rules.of(attack.id)
        is_at_work = any(one.is_trial or now.ms - one.matched_ms < _NEXT_RULE_MS for one in living)
        if is_at_work or now.ms < attack.next_search_ms:
            return
        attack.next_search_ms = now.ms + _SEARCH_MS
        finding = find(watched.packets(vector), watched.good)
        if finding is None:
            return
        attack.fingerprint = sentence(finding.match)
        if finding.may_drop:
            samples = finding.good_samples
            self._rules.try_out(watched.application, finding.match, attack.id, samples, now.ms, now.unix_ms)

    def _defend_networks(self, bounds: Mapping[str, Thresholds], now: _Now) -> set[str]:
        """Many applications of which none has too much, but their network has. Answers which those are."""
        attacked = {name for name, sort in self._attacks if sort != "carpet"}
        rest = [self._watched[name] for name in bounds if name not in attacked]
        covered: set[str] = set()
        for carpet in carpets(rest, THRESHOLDS["medium"].uninvited.floor):
            self._see_carpet(carpet, now)
            covered |= carpet.applications.keys()
            for name, vectors in carpet.applications.items():
                for vector in sorted(vectors):
                    self._hold_little(name, vector, bounds[name], now)
        return covered

    def _see_carpet(self, carpet: Carpet, now: _Now) -> None:
        applications = sorted(carpet.applications)
        attack = self._begin(REST, "carpet", now)
        attack.looks = Looks("carpet", f"to {carpet.addresses} addresses of {carpet.network}", False)
        for name in applications[: MOST_EVIDENCE - len(attack.evidence)]:
            attack.evidence += self._watched[name].frames(min(carpet.applications[name]), 1)
        dropped = sum(self._watched[name].pace.kept_out for name in applications)
        attack.see(carpet.per_s, min(1.0, dropped / carpet.per_s), now.over_s, now.unix_ms)

    def _hold_little(self, name: str, vector: Vector, within: Thresholds, now: _Now) -> None:
        if vector in STRAYS:
            self._holds.need(name, "state", now.ms)
        elif vector == "syn":
            self._holds.need(name, "cookies", now.ms)
        else:
            most = self._watched[name].threshold("udp", within) / _CARPET_SHARE
            self._holds.need(name, "rates", now.ms, fair_rates("packets", most))

    def _end_quiet(self, now: _Now) -> list[Attack]:
        over = [key for key, ongoing in self._attacks.items() if now.unix_ms - ongoing.last_ms >= _OVER_MS]
        return [self._attacks.pop(key).told(is_over=True) for key in over]

    def _end_all(self) -> list[Attack]:
        """Somebody has switched it off."""
        self._rules.clear()
        self._holds.clear()
        return [self._attacks.pop(key).told(is_over=True) for key in list(self._attacks)]

    def _end_all_but(self, applications: set[str]) -> list[Attack]:
        self._rules.forget(applications)
        self._holds.forget(applications)
        gone = [key for key in self._attacks if key[0] not in applications and key[0] != REST]
        return [self._attacks.pop(key).told(is_over=True) for key in gone]

    def _learn(self, machine: MachinePace, now: _Now) -> None:
        attacked = {application for application, _ in self._attacks}
        for application, watched in self._watched.items():
            if application not in attacked:
                watched.learn(now.ms)
        self._tick_s += now.over_s
        self._received += machine.received * now.over_s
        if self._tick_s * 1_000 >= TICK_MS:
            if not attacked:
                self._suspicion.learn(self._received / self._tick_s, now.ms)
            self._tick_s = self._received = 0.0

    def _plan(self, look: Look, received_per_s: float) -> Plan:
        if self._missing:
            return Plan()
        holds, rules = self._holds.planned(), self._rules.planned()
        judged = sum(watched.pace.judged for watched in self._watched.values())
        return Plan(
            is_watching=self._suspicion.is_alert(look.at_ms),
            sample_every=self._suspicion.sampling(look, bool(holds or rules), judged or received_per_s),
            holds=holds,
            rules=rules,
        )
