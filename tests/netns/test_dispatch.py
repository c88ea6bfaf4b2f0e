"""A range of ports by dispatch in the kernel, through the API: it serves, costs few files, leaves others theirs."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from support.echo import ask, ask_udp, start_echo
from support.edge import Running, capability
from support.namespaces import Namespace, Namespaces
from support.program import Programs

PORTS = range(33_000, 63_000)  # beyond what free_port gives to the API
FEW_FILES = 16


@pytest.fixture
def machine(namespaces: Namespaces) -> Namespace:
    dispatch = capability("sk_lookup")
    if not dispatch["available"]:
        pytest.skip(f"no kernel dispatch: {dispatch['detail']}")
    return namespaces.make()


@pytest.fixture
def edge(machine: Namespace, make_edge: Callable[..., Running]) -> Iterator[Running]:
    with machine:
        yield make_edge("--dispatch", "auto", "--workers", "2", inside=machine).start()


def test_thirty_thousand_ports_of_both_protocols_serve_and_cost_few_files(
    edge: Running, machine: Namespace, programs: Programs
) -> None:
    origin = PORTS[41]
    start_echo(programs, "127.0.0.2", origin, inside=machine)
    idle = edge.status()["edges"][0]["open_files"]["used"]
    for transport in ("tcp", "udp"):
        span = f"{PORTS[0]}-{PORTS[-1]}"
        edge.create_application(f"{transport}/{span}", f"{transport}://127.0.0.2:{span}")
    assert edge.status()["edges"][0]["open_files"]["used"] - idle < FEW_FILES
    assert ask(origin) == b"hello"
    assert ask_udp(origin) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORTS[-1] + 1))


def test_a_range_over_the_port_of_another_program_is_refused_by_name_and_changes_nothing(
    edge: Running, machine: Namespace, programs: Programs
) -> None:
    start_echo(programs, "127.0.0.1", 20_000, greeting="other ", inside=machine)
    name = {"type": "CNAME", "name": "taken.example.net"}
    body = {"protocol": "tcp/19000-21000", "dns": name, "origin_direct": ["tcp://127.0.0.2:19000-21000"]}
    refused = edge.http.post(edge.applications, json=body)
    assert refused.status_code == 400 and "20000" in refused.text, refused.text
    assert ask(20_000) == b"other hello"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 19_000))


def test_a_dispatch_that_is_a_must_and_cannot_be_had_keeps_the_edge_from_starting(
    make_edge: Callable[..., Running],
) -> None:
    # PR_CAPBSET_DROP of all, so that the process that serves has none either, as any user would run it
    dropped = "import ctypes, sys; [ctypes.CDLL(None).prctl(24, number) for number in range(64)]"
    flags = ["--data-dir", str(make_edge().data_dir), "--api", "127.0.0.1:0", "--dispatch", "on"]
    start = f"{dropped}; from causeway.up import main; sys.exit(main({flags!r}))"
    ended = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "dispatch is on, but" in ended.stderr and "CAP_BPF" in ended.stderr, ended.stderr
