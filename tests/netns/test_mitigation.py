"""A plan in force on a wire: attached on demand, rules and cookies that hold, through kill -9, ended at once.

The engine alone, without a control plane: client - edge - origin, over veth. Strangers are 198.19.0.0/16.
"""

import itertools
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support import frames
from support.bare_engine import BareEngine, application
from support.carried import CLIENT, EDGE, ORIGIN, need_fast_path
from support.echo import ask, ask_udp, echoes, start_echo
from support.edge import need_guard
from support.frames import Wire
from support.meanwhile import again_and_again
from support.namespaces import Namespaces, device_of, mac_of
from support.patience import eventually
from support.program import Programs

ECHO, BY_KERNEL, BY_ENGINE, DATAGRAMS = 7000, 9701, 9702, 9703
TCP, ENGINE, UDP = (f"{n:032x}" for n in (1, 2, 3))
IDLE_MS = 1500  # instead of a minute


class Lab:
    def __init__(self, namespaces: Namespaces, programs: Programs, folder: Any) -> None:
        self.client, self.edge, self.origin = (namespaces.make() for _ in range(3))
        namespaces.join(self.edge, self.client, 1)
        namespaces.join(self.edge, self.origin, 2)
        self.edge.ip("route", "add", "198.19.0.0/16", "via", CLIENT[4])
        start_echo(programs, ORIGIN[4], ECHO, inside=self.origin)
        self.wire = Wire(self.client, device_of(self.client), mac_of(self.edge))
        # An answer by XDP needs a program on the other end of a veth; this one guards a port that nobody asks.
        self.peer = BareEngine(folder / "peer", self.client, guard="on", fast_path="off").start()
        self.peer.apply(application(9, "udp", [CLIENT[4]], 9, EDGE[4], 9))
        self.engine = BareEngine(folder / "edge", self.edge, guard_idle_ms=IDLE_MS).start()
        self.serve()

    def end(self) -> None:
        self.wire.close()
        self.engine.end()
        self.peer.end()

    def serve(self) -> None:
        at = [EDGE[4]]
        report = self.engine.apply(
            application(1, "tcp", at, BY_KERNEL, ORIGIN[4], ECHO),
            application(2, "tcp", at, BY_ENGINE, ORIGIN[4], ECHO, carrier="engine"),
            application(3, "udp", at, DATAGRAMS, ORIGIN[4], ECHO),
        )
        carried = {listener["application"]: listener["carrier"] for listener in report["listeners"]}
        assert carried == {TCP: "kernel", ENGINE: "engine", UDP: "kernel"}, report

    def report(self) -> Any:
        return self.engine.call("observe", 10_000)

    def packets(self, of: str) -> dict[str, int]:
        found = next(at for at in self.engine.look()["applications"] if at["application"] == of)
        return dict(found["packets"])

    def signals(self, of: str) -> dict[str, int]:
        found = next(at for at in self.engine.look()["applications"] if at["application"] == of)
        return dict(found["signals"])


@pytest.fixture(scope="module")
def whole(namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_fast_path()
    need_guard()
    made = Lab(namespaces, module_programs, tmp_path_factory.mktemp("edge"))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    yield whole
    whole.engine.mitigate()


def drop(of: str, id: str = "r", **fits: Any) -> dict[str, Any]:
    return {"id": id, "application": of, "action": "drop", "match": fits}


def datagrams(count: int, payload: bytes = b"x" * 72, first: int = 0) -> Iterator[bytes]:
    for number in range(first, first + count):
        yield frames.udp(frames.stranger(number), (EDGE[4], DATAGRAMS), payload)


def syns(count: int, port: int) -> Iterator[bytes]:
    for number in range(count):
        yield frames.tcp(frames.stranger(number), (EDGE[4], port), frames.SYN, seq=random.getrandbits(32))


def under_fire(lab: Lab, packets: Callable[[], Iterator[bytes]]) -> AbstractContextManager[None]:
    """The same packets again and again, while the block runs."""
    return again_and_again(lambda: lab.wire.send(itertools.islice(packets(), 256)))


def has_xdp(lab: Lab) -> bool:
    with lab.edge:
        shown = subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=True).stdout
    return "prog/xdp" in shown


def test_nothing_is_attached_until_something_is_suspected_and_again_when_it_is_over(lab: Lab) -> None:
    eventually(lambda: not has_xdp(lab) or not lab.report())
    look = lab.engine.look()
    assert (look["is_attached"], look["missing"]) == (False, None)
    assert "nothing to hold" in lab.report()["guard"]["missing"]
    assert lab.engine.mitigate(is_watching=True, sample_every=1) == {"is_attached": True, "refused": {}}
    assert lab.engine.look()["is_attached"] and has_xdp(lab)
    with lab.client:
        assert ask(BY_KERNEL, EDGE[4]) == b"hello"
    look = lab.engine.look()
    assert lab.packets(TCP)["passed"] > 0
    assert any(sample["application"] == TCP and sample["is_established"] for sample in look["samples"])
    assert lab.engine.mitigate() == {"is_attached": True, "refused": {}}
    assert lab.engine.call("mitigation") == {}
    eventually(lambda: bool(lab.report()) and not has_xdp(lab))
    assert not lab.engine.look()["is_attached"]


@pytest.mark.alone
def test_attaching_takes_milliseconds_when_the_program_is_there(lab: Lab) -> None:
    took = []
    for _ in range(3):
        eventually(lambda: bool(lab.report()) and not has_xdp(lab))
        lab.engine.mitigate(is_watching=True)
        took.append(lab.engine.took_ms)
        lab.engine.mitigate()
    print(f"attached in {min(took):.1f} to {max(took):.1f} ms")
    assert min(took) < 250, took


def test_a_rule_drops_what_it_fits_and_open_flows_go_on(lab: Lab) -> None:
    with lab.client:
        held = [socket.create_connection((EDGE[4], port), timeout=10) for port in (BY_KERNEL, BY_ENGINE)]
        session = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        session.connect((EDGE[4], DATAGRAMS))
        session.settimeout(5)
    assert all(echoes(connection) for connection in held)
    for _ in range(2):  # two-way
        session.send(b"hello")
        assert session.recv(100) == b"hello"
    rules = [drop(of, id=of, source=f"{CLIENT[4]}/32") for of in (TCP, ENGINE, UDP)]
    assert lab.engine.mitigate(rules=rules)["refused"] == {}
    assert all(echoes(connection) for connection in held)
    session.send(b"still")
    assert session.recv(100) == b"still"
    with lab.client:
        for port in (BY_KERNEL, BY_ENGINE):
            with pytest.raises(TimeoutError):
                socket.create_connection((EDGE[4], port), timeout=0.5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.connect((EDGE[4], DATAGRAMS))
            other.settimeout(0.5)
            other.send(b"lost")
            with pytest.raises(TimeoutError):
                other.recv(100)
    counts = {rule["id"]: rule for rule in lab.engine.look()["rules"]}
    assert set(counts) == {TCP, ENGINE, UDP}
    assert all(0 < count["established"] < count["packets"] for count in counts.values()), counts
    for connection in (*held, session):
        connection.close()


@pytest.mark.alone
def test_the_kill_switch_ends_everything_within_a_second(lab: Lab) -> None:
    lab.engine.mitigate(rules=[drop(UDP)], holds=[{"application": UDP, "no_fragments": True}])
    begin = time.monotonic()
    assert lab.engine.mitigate()["refused"] == {}
    with lab.client:
        assert ask_udp(DATAGRAMS, EDGE[4]) == b"hello"
    took_s = time.monotonic() - begin
    print(f"ended in {took_s * 1000:.0f} ms, answer included")
    assert took_s < 1.0
    assert lab.engine.look()["rules"] == []


def test_a_rule_that_makes_no_sense_is_named_and_the_others_hold(lab: Lab) -> None:
    rules = [
        drop(UDP, id="good", length=[100, 100]),
        drop(UDP, id="wrong", hops=[1, 300]),
        drop("f" * 32, id="nobodys"),
        drop(UDP, id="good"),
    ]
    holds = [{"application": UDP, "rates": [{"of": "bytes", "ipv4": 32, "ipv6": 64, "per_s": 0, "burst": 0}]}]
    refused = lab.engine.mitigate(rules=rules, holds=holds)["refused"]
    assert set(refused) == {"good", "wrong", "nobodys", UDP}, refused
    assert "hops 300" in refused["wrong"] and "no listener" in refused["nobodys"] and "nothing would" in refused[UDP]
    lab.wire.send(datagrams(100))
    eventually(lambda: lab.packets(UDP).get("rule_dropped", 0) >= 100)


def test_a_hundred_rules_are_swapped_under_fire_and_no_packet_meets_half_a_set(lab: Lab) -> None:
    def rules(name: str) -> list[dict[str, Any]]:
        steps = [drop(UDP, id=f"{name}{n}", source_ports=[n * 1024, n * 1024 + 1023]) for n in range(64)]
        return steps if name == "a" else steps[::-1]

    lab.engine.mitigate(rules=rules("a"))
    before, opened, took = lab.packets(UDP), lab.signals(UDP)["opened"], []
    with under_fire(lab, lambda: datagrams(4096, first=random.randrange(50_000))):
        for name in itertools.islice(itertools.cycle("ba"), 40):
            lab.engine.mitigate(rules=rules(name))
            took.append(lab.engine.took_ms)
    after = lab.packets(UDP)
    fired = after["rule_dropped"] - before.get("rule_dropped", 0)
    print(f"64 rules swapped in {sorted(took)[len(took) // 2]:.1f} ms (worst {max(took):.1f}) under {fired} packets")
    assert fired > 1000
    assert after.get("passed", 0) == before.get("passed", 0), "every packet fits a rule of either set"
    assert lab.signals(UDP)["opened"] == opened
    assert sorted(took)[len(took) // 2] < 50, took


def test_answers_of_amplifiers_are_dropped_while_something_is_suspected(lab: Lab) -> None:
    lab.engine.mitigate(is_watching=True, sample_every=1)
    before = lab.packets(UDP).get("rule_dropped", 0)
    for port in (53, 123, 11_211):
        lab.wire.send(frames.udp((f"198.19.7.{n}", port), (EDGE[4], DATAGRAMS), b"x" * 400) for n in range(1, 51))
    eventually(lambda: lab.packets(UDP).get("rule_dropped", 0) == before + 150)

    def sampled() -> list[Any]:
        lab.wire.send([frames.udp(("198.19.7.1", 123), (EDGE[4], DATAGRAMS), b"x" * 400)])
        return [s for s in lab.engine.look()["samples"] if s["application"] == UDP and s["length"] == 442]

    lab.engine.look()
    samples = eventually(sampled)
    assert (samples[-1]["verdict"], samples[-1]["rule"]) == ("rule_dropped", "amplifier-ntp")
    assert not samples[-1]["is_established"]


def fragment(packet: bytes, field: int) -> bytes:
    """The packet with flags and offset of its IPv4 header."""
    header = packet[:6] + field.to_bytes(2, "big") + packet[8:10] + b"\0\0" + packet[12:20]
    return header[:10] + frames.checksum(header).to_bytes(2, "big") + header[12:] + packet[20:]


def test_state_rates_and_fragments_are_held_and_clients_notice_nothing(lab: Lab) -> None:
    rate = {"of": "packets", "ipv4": 32, "ipv6": 64, "per_s": 10, "burst": 10}
    holds = [
        {"application": TCP, "state": True},
        {"application": UDP, "no_fragments": True, "rates": [rate]},
    ]
    assert lab.engine.mitigate(holds=holds)["refused"] == {}
    before = {of: lab.packets(of) for of in (TCP, UDP, "*")}
    whole = frames.udp(("198.19.1.1", 5000), (EDGE[4], DATAGRAMS), b"x" * 72)
    lab.wire.send(frames.tcp(frames.stranger(n), (EDGE[4], BY_KERNEL), frames.ACK, seq=n, ack=n) for n in range(100))
    lab.wire.send(frames.udp(("198.19.1.1", 5001 + n), (EDGE[4], DATAGRAMS), b"x" * 72) for n in range(100))
    lab.wire.send(fragment(whole, 0x2000) for _ in range(50))
    lab.wire.send(fragment(whole, 0x0005) for _ in range(50))
    with lab.client:
        assert ask(BY_KERNEL, EDGE[4]) == ask(BY_ENGINE, EDGE[4]) == ask_udp(DATAGRAMS, EDGE[4]) == b"hello"

    def more(of: str, verdict: str) -> int:
        return lab.packets(of).get(verdict, 0) - before[of].get(verdict, 0)

    eventually(lambda: more(TCP, "out_of_state") == 100)
    eventually(lambda: more(UDP, "fragment") == 50)
    eventually(lambda: more("*", "fragment") == 50)
    assert 80 <= more(UDP, "rate") <= 95


@pytest.mark.alone
@pytest.mark.parametrize("port", [BY_KERNEL, BY_ENGINE])
def test_clients_connect_through_a_flood_of_syns_while_cookies_hold(lab: Lab, port: int) -> None:
    of = TCP if port == BY_KERNEL else ENGINE
    with lab.client:
        held = socket.create_connection((EDGE[4], port), timeout=10)
    assert echoes(held)
    with lab.edge:
        before = read_setting()
    assert lab.engine.mitigate(holds=[{"application": of, "cookies": True}])["refused"] == {}
    with lab.edge:
        assert read_setting() == "2"
    with under_fire(lab, lambda: syns(4096, port)):
        eventually(lambda: lab.packets(of).get("cookie_sent", 0) > 500)
        with lab.client:
            eventually(lambda: ask(port, EDGE[4]) == b"hello")  # the listener has to have sent some of its own
            taken = lab.packets(of).get("cookie_taken", 0)
            assert all(ask(port, EDGE[4], b"%d" % n) == b"%d" % n for n in range(20))
        assert echoes(held), "what is open goes on"
    assert lab.packets(of)["cookie_taken"] >= taken + 15
    assert lab.signals(of)["open"] < 100, "nobody remembers a SYN"
    lab.engine.mitigate()
    with lab.edge:
        assert read_setting() == before, "as it was"
    with lab.client:
        opened = lab.report()["flow_path"]["verdicts"]["promoted"]
        assert ask(port, EDGE[4]) == b"hello"
    by_kernel = lab.report()["flow_path"]["verdicts"]["promoted"] - opened
    assert by_kernel == (1 if port == BY_KERNEL else 0), "carried again as before"
    held.close()


def read_setting() -> str:
    with open("/proc/sys/net/ipv4/tcp_syncookies") as setting:
        return setting.read().strip()


def test_a_plan_outlives_kill_9_under_fire_and_the_next_process_takes_it_over_without_a_gap(lab: Lab) -> None:
    plan = {"sample_every": 100, "rules": [drop(UDP, id="one", length=[100, 100]), drop(TCP, id="two", window=[7, 7])]}
    assert lab.engine.mitigate(**plan)["refused"] == {}
    lab.wire.send(datagrams(100))
    eventually(lambda: {r["id"]: r["packets"] for r in lab.engine.look()["rules"]}["one"] >= 100)
    before, opened = lab.packets(UDP), lab.signals(UDP)["opened"]
    with under_fire(lab, lambda: datagrams(4096, first=random.randrange(50_000))):
        lab.engine.kill()
        time.sleep(0.3)
        assert has_xdp(lab)
        lab.engine.start()
        assert lab.engine.call("mitigation") == plan
        eventually(lambda: lab.engine.look()["is_attached"])
        lab.serve()
        counts = {rule["id"]: rule["packets"] for rule in lab.engine.look()["rules"]}
    assert counts["one"] > 100, "counted on while nobody ran, and after"
    assert lab.packets(UDP).get("passed", 0) == before.get("passed", 0), "no packet came through"
    assert lab.signals(UDP)["opened"] == opened
    assert lab.engine.call("mitigation") == plan
    assert lab.engine.mitigate()["refused"] == {}
    with lab.client:
        assert ask_udp(DATAGRAMS, EDGE[4]) == b"hello"


@pytest.mark.alone
def test_a_look_is_cheap_and_tells_of_engine_and_kernel(lab: Lab) -> None:
    before = {of: lab.signals(of) for of in (TCP, ENGINE, UDP)}
    with lab.client:
        assert ask(BY_KERNEL, EDGE[4]) == ask(BY_ENGINE, EDGE[4]) == b"hello"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((EDGE[4], DATAGRAMS))
            client.settimeout(5)
            for _ in range(3):
                client.send(b"hello")
                client.recv(100)
    for of in (TCP, ENGINE, UDP):
        after = eventually_more(lab, of, before[of])
        assert (after["opened"] - before[of]["opened"], after["established"] - before[of]["established"]) == (1, 1), of
    took = []
    for _ in range(20):
        look = lab.engine.look()
        took.append(lab.engine.took_ms)
    assert 0.0 <= look["system"]["cpu_busy"] <= 1.0 and look["system"]["received_packets"] > 0
    print(f"a look takes {sorted(took)[10]:.2f} ms")
    assert sorted(took)[10] < 5, took


def eventually_more(lab: Lab, of: str, before: dict[str, int]) -> dict[str, int]:
    eventually(lambda: lab.signals(of)["established"] > before["established"])
    return lab.signals(of)


def test_where_it_is_switched_off_a_plan_is_refused_with_the_reason(lab: Lab) -> None:
    lab.engine.kill()
    lab.engine.start(guard="off")
    lab.serve()
    assert lab.engine.mitigate(rules=[drop(UDP)], holds=[{"application": TCP, "state": True}]) == {
        "is_attached": False,
        "refused": {"r": "the guard is switched off (--guard off)", TCP: "the guard is switched off (--guard off)"},
    }
    assert lab.engine.look()["missing"] == "switched off (--guard off)"
    assert lab.engine.call("mitigation") == {}
    lab.engine.kill()
    lab.engine.start()
    lab.serve()
