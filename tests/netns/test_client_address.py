"""HAProxy and nginx behind the edge are told who the client is, and it is the address the client really has.

Three networks: client 198.18.1.2 - edge 198.18.1.1 and 198.18.2.1 - origin 198.18.2.2, and the same with 2001:db8.
"""

import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import echo
from support.echo import start_echo
from support.edge import Running
from support.namespaces import Namespace, Namespaces
from support.patience import eventually
from support.program import Programs, need

FRONT_PORT = 7000
EDGE = {4: "198.18.1.1", 6: "2001:db8:1::1"}
CLIENT = {4: "198.18.1.2", 6: "2001:db8:1::2"}
ORIGIN = {4: "198.18.2.2", 6: "2001:db8:2::2"}
TELL = "haproxy %[src] %[src_port] %[dst] %[dst_port]"
Serve = Callable[[Programs, Path, Namespace, int], None]


class Place:
    """The three networks, and the edge in the middle."""

    def __init__(self, namespaces: Namespaces, programs: Programs, data_dir: Path) -> None:
        self.client, self.middle, self.origin = (namespaces.make() for _ in range(3))
        namespaces.join(self.middle, self.client, 1)
        namespaces.join(self.middle, self.origin, 2)
        flags = ["--edge-ip", EDGE[4], "--edge-ip", EDGE[6]]
        self.edge = Running(programs, data_dir, *flags, inside=self.middle).start()
        self.ports = itertools.count(9000)


@pytest.fixture(scope="module")
def place(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    made = Place(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    yield made
    made.edge.close()


def serve_haproxy(programs: Programs, folder: Path, inside: Namespace, port: int) -> None:
    """Answer with the client that the PROXY header names; without a header, not at all."""
    need("haproxy")
    (folder / "haproxy.cfg").write_text(
        "defaults\n  mode http\n  timeout client 5s\n  timeout connect 5s\n  timeout server 5s\n"
        f"frontend origin\n  bind {ORIGIN[4]}:{port} accept-proxy\n  bind {ORIGIN[6]}:{port} accept-proxy\n"
        f'  http-request return status 200 content-type text/plain lf-string "{TELL}"\n'
    )
    programs.start("haproxy", "-db", "-f", folder / "haproxy.cfg", inside=inside)


def serve_nginx(programs: Programs, folder: Path, inside: Namespace, port: int) -> None:
    need("nginx")
    tell = "nginx $proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1; events {{ }}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; server {{\n"
        f"  listen {ORIGIN[4]}:{port} proxy_protocol; listen [{ORIGIN[6]}]:{port} proxy_protocol;\n"
        f'  location / {{ return 200 "{tell}"; }} }} }}\n'
    )
    programs.start("nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf", inside=inside)


def ask(place: Place, address: str, port: int) -> tuple[str, list[str]]:
    """What the origin says over HTTP, and the client's own address and port as words."""
    with place.client, socket.create_connection((address, port), timeout=3) as connection:
        own, own_port = connection.getsockname()[:2]
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.") and b" 200 " in head, head
    return body.decode(), [own, str(own_port)]


@pytest.mark.parametrize("serve", [serve_haproxy, serve_nginx])
def test_an_origin_learns_the_clients_address(place: Place, programs: Programs, tmp_path: Path, serve: Serve) -> None:
    origin_port = next(place.ports)
    serve(programs, tmp_path, place.origin, origin_port)
    for version, family in [("v1", 4), ("v1", 6), ("v2", 4), ("v2", 6)]:
        host = ORIGIN[4] if family == 4 else f"[{ORIGIN[6]}]"
        port = next(place.ports)
        place.edge.create_application(f"tcp/{port}", f"tcp://{host}:{origin_port}", proxy_protocol=version)

        told, own = eventually(lambda port=port, family=family: ask(place, EDGE[family], port))

        assert told.split()[1:] == [*own, EDGE[family], str(port)], (version, family)
        assert own[0] == CLIENT[family]


def test_a_client_of_one_family_is_told_to_an_origin_of_the_other(
    place: Place, programs: Programs, tmp_path: Path
) -> None:
    origin_port, port = next(place.ports), next(place.ports)
    serve_haproxy(programs, tmp_path, place.origin, origin_port)
    place.edge.create_application(f"tcp/{port}", f"tcp://{ORIGIN[4]}:{origin_port}", proxy_protocol="v2")

    told, own = eventually(lambda: ask(place, EDGE[6], port))

    assert told.split()[1:] == [*own, EDGE[6], str(port)]


def test_nothing_is_added_to_the_bytes_unasked_and_the_flow_log_knows_the_client(
    place: Place, programs: Programs
) -> None:
    origin_port, port = next(place.ports), next(place.ports)
    start_echo(programs, ORIGIN[4], origin_port, inside=place.origin)
    application = place.edge.create_application(f"tcp/{port}", f"tcp://{ORIGIN[4]}:{origin_port}")
    with place.client:
        assert echo.ask(port, EDGE[4], b"exactly this") == b"exactly this"
    event = place.edge.event(application, kind="disconnect")
    assert event["client"].startswith(f"{CLIENT[4]}:")
    assert (event["edge"], event["origin"]) == (f"{EDGE[4]}:{port}", f"{ORIGIN[4]}:{origin_port}")
    assert (event["client_bytes"], event["origin_bytes"], event["status"]) == (12, 12, 200)


@pytest.mark.parametrize("sends", ["send-proxy", "send-proxy-v2"])
def test_the_header_of_a_trusted_balancer_in_front_is_passed_on(
    place: Place, programs: Programs, tmp_path: Path, sends: str
) -> None:
    """client -> HAProxy in the client's network -> edge, which trusts that network -> HAProxy at the origin."""
    origin_port, port = next(place.ports), next(place.ports)
    serve_haproxy(programs, tmp_path, place.origin, origin_port)
    (tmp_path / "front.cfg").write_text(
        "defaults\n  mode tcp\n  timeout client 5s\n  timeout connect 5s\n  timeout server 5s\n"
        f"listen front\n  bind 127.0.0.1:{FRONT_PORT}\n  server edge {EDGE[4]}:{port} {sends}\n"
    )
    programs.start("haproxy", "-db", "-f", tmp_path / "front.cfg", inside=place.client)
    trusted = {"proxy_protocol_from": ["198.18.1.0/24"]}
    origin = f"tcp://{ORIGIN[4]}:{origin_port}"
    application = place.edge.create_application(f"tcp/{port}", origin, proxy_protocol="v1", x_causeway=trusted)

    told, own = eventually(lambda: ask(place, "127.0.0.1", FRONT_PORT))

    assert told.split()[1:] == [*own, "127.0.0.1", str(FRONT_PORT)]
    assert place.edge.event(application, kind="connect", client=":".join(own))
