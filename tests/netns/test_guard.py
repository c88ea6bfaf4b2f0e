"""The guard in front of an edge: on by request, beside the fast path, through restarts, gone when flushed."""

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support import echo
from support.carried import CLIENT, EDGE, ORIGIN, Middle
from support.echo import ask_udp, echoes, start_echo
from support.edge import CAUSEWAY
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs, environment

ECHO, KERNEL, ENGINE = 7000, 9601, 9602


@pytest.fixture(scope="module")
def middle(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Middle]:
    answer = subprocess.run([CAUSEWAY, "doctor", "-o", "json"], capture_output=True, check=True, env=environment())
    told = next(c for c in json.loads(answer.stdout) if c["name"] == "guard")
    if not told["available"]:
        pytest.skip(f"the guard cannot be tested here: {told['detail']}")
    made = Middle(namespaces, module_programs, tmp_path_factory.mktemp("data"), "--guard", "on")
    made.edge.start()
    for family in (4, 6):
        start_echo(module_programs, ORIGIN[family], ECHO, inside=made.origin)
    for protocol in ("tcp", "udp"):
        made.edge.create_application(f"{protocol}/{KERNEL}", f"{protocol}://{ORIGIN[4]}:{ECHO}")
    made.edge.create_application(f"tcp/{ENGINE}", f"tcp://{ORIGIN[4]}:{ECHO}", x_causeway={"carrier": "engine"})
    yield made
    made.edge.close()
    made.edge.stop()
    made.flush()


def guard(middle: Middle) -> dict[str, Any]:
    found: dict[str, Any] = middle.edge.status()["edges"][0]["guard"]
    return found


def send_frames(middle: Middle, flags: int, port: int, count: int) -> None:
    """TCP segments with these flags, by the client's device as they are."""
    with middle.client:
        device = next(name for _, name in socket.if_nameindex() if name != "lo")
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
            for number in range(count):
                raw.sendto(_segment(40_000 + number, port, flags), (EDGE[4], 0))


def _segment(source: int, port: int, flags: int) -> bytes:
    bare = struct.pack("!HHIIBBHHH", source, port, 1, 1, 5 << 4, flags, 1000, 0, 0)
    ends = socket.inet_aton(CLIENT[4]) + socket.inet_aton(EDGE[4]) + struct.pack("!HH", 6, len(bare))
    total = sum(struct.unpack(f"!{len(ends + bare) // 2}H", ends + bare))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return bare[:16] + struct.pack("!H", checksum) + bare[18:]


def test_it_is_on_and_says_where(middle: Middle) -> None:
    told = guard(middle)
    assert told["is_on"] and told["missing"] is None, told
    assert len(told["interfaces"]) == 2
    assert all(at["mode"] in ("native", "generic") for at in told["interfaces"])


@pytest.mark.parametrize("port", [KERNEL, ENGINE])
def test_packets_that_are_served_pass_and_are_counted(middle: Middle, port: int) -> None:
    before = guard(middle)["verdicts"]["passed"]
    promoted = middle.path()["verdicts"].get("promoted", 0)
    with middle.client:
        assert echo.ask(port, EDGE[4], b"exactly this") == b"exactly this"
    assert guard(middle)["verdicts"]["passed"] > before
    by_kernel = middle.path()["verdicts"].get("promoted", 0) - promoted
    assert by_kernel == (1 if port == KERNEL else 0)


def test_datagrams_pass(middle: Middle) -> None:
    with middle.client:
        assert ask_udp(KERNEL, EDGE[4], b"a datagram") == b"a datagram"


def test_flags_that_nobody_sends_are_dropped_before_anything_sees_them(middle: Middle) -> None:
    before = guard(middle)["verdicts"]["illegal"]
    send_frames(middle, flags=0x29, port=KERNEL, count=50)  # FIN PSH URG
    send_frames(middle, flags=0x00, port=ENGINE, count=50)
    eventually(lambda: guard(middle)["verdicts"]["illegal"] == before + 100)
    found = {at["application"]: at["verdicts"].get("illegal", 0) for at in guard(middle)["applications"]}
    assert sum(found.values()) >= 100 and sum(count > 0 for count in found.values()) == 2


def test_a_port_that_nobody_has_still_refuses(middle: Middle) -> None:
    with middle.client, pytest.raises(ConnectionRefusedError):
        socket.create_connection((EDGE[4], 9699), timeout=10)


def test_a_connection_of_a_process_that_is_gone_is_still_told_so(middle: Middle) -> None:
    with middle.client:
        held = socket.create_connection((EDGE[4], ENGINE), timeout=10)
    with held:
        assert echoes(held)
        _kill(middle)
        middle.edge.start()
        held.settimeout(10)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            held.sendall(b"is anybody there")
            if held.recv(1) == b"":
                raise ConnectionResetError


def test_sessions_of_the_engine_go_on_being_known_through_an_upgrade(middle: Middle) -> None:
    port = 9603
    middle.edge.create_application(f"udp/{port}", f"udp://{ORIGIN[4]}:{ECHO}", x_causeway={"carrier": "engine"})
    with middle.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as session:
        session.connect((EDGE[4], port))
        session.settimeout(10)

        def is_answered() -> bool:
            session.send(b"hello")
            return session.recv(100) == b"hello"

        assert is_answered() and is_answered()
        eventually(lambda: guard(middle)["sessions"] == 1)
        before = middle.edge.serving_pid
        assert middle.edge.program
        middle.edge.program.send(signal.SIGHUP)
        eventually(lambda: middle.edge.serving_pid != before, 60)
        assert is_answered()
        eventually(lambda: guard(middle)["is_on"] and guard(middle)["sessions"] == 1)
    assert guard(middle)["sessions_left_out"] == 0


def _kill(middle: Middle) -> None:
    """SIGKILL for every process of this edge, all at once."""
    assert middle.edge.program
    for pid in (middle.edge.program.pid, *middle.edge.children):
        os.kill(pid, signal.SIGKILL)
    middle.edge.program.wait()


def test_rules_outlive_kill_9_and_the_next_process_takes_them_over(middle: Middle) -> None:
    with middle.client:
        held = socket.create_connection((EDGE[4], KERNEL), timeout=10)
    with held:
        assert echoes(held)
        before = guard(middle)["verdicts"]["illegal"]
        _kill(middle)
        send_frames(middle, flags=0x29, port=KERNEL, count=50)
        assert echoes(held), "the kernel carries it past the guard"
        middle.edge.start()
        assert guard(middle)["verdicts"]["illegal"] == before + 50, "dropped and counted while nobody ran"
        assert echoes(held)


def test_flush_takes_it_out_of_the_kernel(middle: Middle) -> None:
    middle.edge.close()
    middle.edge.stop()
    assert _has_xdp(middle), "SIGTERM leaves it"
    middle.flush()
    assert not _has_xdp(middle)
    middle.edge.start()


def _has_xdp(middle: Middle) -> bool:
    with middle.middle:
        shown = subprocess.run(["ip", "-d", "link"], capture_output=True, text=True, check=True).stdout
    return "prog/xdp" in shown
