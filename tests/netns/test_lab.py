"""The lab as its users have it: a world comes up by the command line, carries real traffic, is harmed and goes away."""

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.edge import CAUSEWAY, ZONE
from support.patience import eventually
from support.program import environment, need

from causeway.lab import Lab, LabError

pytestmark = pytest.mark.alone

MS = 1e-3
TOLERANCE_S = (
    4 * MS
)  # of a round trip over three processes on a machine that may be busy; bench of the relay: docs/lab.md
PINS = Path("/sys/fs/bpf/causeway")

THREE = """
[nodes.gamer]
kind = "client"
place = "Lisbon"
[nodes.ams]
kind = "pop"
place = "Amsterdam"
[nodes.game]
kind = "origin"
place = "Frankfurt"
[[links]]
between = ["gamer", "ams"]
rtt_ms = 40
[[links]]
between = ["ams", "game"]
rtt_ms = 10
"""

PAIR = """
[nodes.a]
kind = "client"
[nodes.b]
kind = "origin"
programs = ["{python} -m causeway.lab.echo 7", "sh -c 'echo {{name}} {{address}} {{address6}} {{dir}}; exec sleep 600'"]
[nodes.c]
kind = "client"
[[links]]
between = ["a", "b"]
rtt_ms = 2
"""


@pytest.fixture(scope="module", autouse=True)
def can() -> None:
    need("ip", "nsenter")
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("a lab needs root and /dev/net/tun")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes with a link and one without, for tests that put back what they change."""
    text = PAIR.format(python=sys.executable)
    with Lab.up(text, tmp_path_factory.mktemp("lab") / "pair", f"pair-{os.getpid()}") as lab:
        eventually(lambda: ask(lab, "b"))
        yield lab


@pytest.fixture
def whole(pair: Lab) -> Iterator[Lab]:
    yield pair
    pair.heal("a", "b").heal("b")
    pair.link("a", "b", rtt_ms=2, jitter_ms=0, loss=0, duplicate=0, reorder=0, rate_mbit=0, mtu=0, mtu_silent=False)


def test_a_world_comes_up_carries_what_is_asked_of_it_and_leaves_nothing(tmp_path: Path) -> None:
    name, folder = f"three-{os.getpid()}", tmp_path / "run"
    (tmp_path / f"{name}.toml").write_text(THREE)

    def lab(*words: str, status: int = 0) -> str:
        done = subprocess.run(
            [CAUSEWAY, "lab", words[0], "-f", f"{name}.toml", "--dir", folder, *words[1:]],
            cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if status == 0 else done.stderr

    assert "up       3 nodes, 3 links" in lab("up")
    try:
        assert "error lab_is_up" in lab("up", status=1)
        told = json.loads(lab("status", "-o", "json"))
        pids = [program["pid"] for node in told["nodes"] for program in node["programs"]]
        assert all(program["is_alive"] for node in told["nodes"] for program in node["programs"]) and len(pids) == 2

        lab("shell", "ams", "--", "causeway", "zones", "create", ZONE)
        for transport in ("tcp", "udp"):
            lab("shell", "ams", "--", "causeway", "apps", "create", "--dns", f"{transport}.{ZONE}",
                "--protocol", f"{transport}/7000", "--origin", "198.18.3.1:7")  # fmt: skip
        world = Lab.open(folder)
        for family in (4, 6):
            assert round_trip_s(world, family=family) == pytest.approx(50 * MS, abs=TOLERANCE_S)
        with world.inside("gamer"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.connect(("198.18.2.1", 7000))
            end.settimeout(1)
            eventually(lambda: answers(end, b"by UDP"))
        assert counted(world, "gamer", "ams")["arrived"] > 0

        assert "100 ms" in lab("link", "gamer", "ams", "--rtt-ms", "200")
        assert round_trip_s(world) == pytest.approx(210 * MS, abs=TOLERANCE_S)
        lab("link", "gamer", "ams", "--delay-ms", "5", "--one-way")
        assert round_trip_s(world) == pytest.approx(115 * MS, abs=TOLERANCE_S)

        with world.inside("gamer"), socket.create_connection(("198.18.2.1", 7000), timeout=5) as held:
            held.sendall(b"first")
            assert held.recv(100) == b"first"
            lab("fail", "ams", "game")
            held.settimeout(0.5)
            held.sendall(b"lost for now")
            with pytest.raises(TimeoutError):
                held.recv(100)
            lab("heal", "ams", "game")
            held.settimeout(20)
            assert held.recv(100) == b"lost for now"  # TCP has sent it again
        assert counted(world, "ams", "game")["cut"] > 0
        lab("fail", "ams")
        assert "failed" in lab("status")
        with pytest.raises(TimeoutError):
            round_trip_s(world, within_s=0.5)
        lab("heal", "ams")
        assert round_trip_s(world) == pytest.approx(115 * MS, abs=TOLERANCE_S)
        pins = pins_of(world, "ams")
        assert pins.exists(), "the fast path carries, so that there is something to take away"
        outside = world.status().wan.outside
        assert (outside["fenced"], outside["refused"]) == (0, 0)
    finally:
        lab("down")
    assert not [path.name for path in Path("/run/netns").iterdir() if name in path.name]
    eventually(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])  # once their heir has looked
    assert not processes_that_mention(str(folder))
    assert not folder.exists()
    assert not pins.exists()
    assert "error lab_not_up" in lab("down", status=1)


def test_the_programs_of_a_node_know_its_name_and_addresses(pair: Lab) -> None:
    said = eventually(lambda: (pair.node_folder("b") / "sh-1.log").read_text())
    assert said.split() == ["b", "198.18.2.1", "2001:db8:2::1", str(pair.node_folder("b"))]


def test_a_share_of_datagrams_is_lost_in_one_direction_and_counted(whole: Lab) -> None:
    whole.link("a", "b", one_way=True, loss=0.3)
    before = counted(whole, "a", "b"), counted(whole, "b", "a")
    with whole.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        for _ in range(2000):
            end.sendto(b"x", ("198.18.2.1", 9))  # nobody listens there, which is not told over and over
            time.sleep(0.0002)
    eventually(lambda: counted(whole, "a", "b")["offered"] - before[0]["offered"] >= 2000)
    assert 480 < counted(whole, "a", "b")["lost"] - before[0]["lost"] < 720  # 6 standard deviations
    assert counted(whole, "b", "a")["lost"] == before[1]["lost"]


def test_a_rate_is_what_bulk_gets(whole: Lab) -> None:
    whole.link("a", "b", rate_mbit=16, queue_kb=64)
    sent = b"x" * 1_000_000
    with whole.inside("a"), socket.create_connection(("198.18.2.1", 7), timeout=20) as end:
        began_s, heard = time.monotonic(), 0
        pid = os.fork()
        if pid == 0:
            end.sendall(sent)
            os._exit(0)
        while heard < len(sent):
            heard += len(end.recv(1 << 16))
        os.waitpid(pid, 0)
        took_s = time.monotonic() - began_s
    assert 0.48 < took_s < 0.9  # 0.5 s at 16 Mbit/s, and headers, slow start and losses


@pytest.mark.parametrize("family", [4, 6])
def test_a_narrow_link_tells_its_mtu_or_swallows_what_is_too_big(whole: Lab, family: int) -> None:
    whole.link("a", "b", mtu=1300, mtu_silent=True)
    with whole.inside("a"), connected(family) as end:
        end.send(bytes(1400))
        assert mtu(end, family) == 1500
        whole.link("a", "b", mtu_silent=False)
        end.send(bytes(1400))
        eventually(lambda: mtu(end, family) == 1300)
        end.settimeout(5)
        eventually(lambda: answers(end, bytes(1200)))
    whole.run("a", "ip", "route", "flush", "cache")


def test_a_lab_has_no_way_out(pair: Lab) -> None:
    with pair.inside("a"):
        for target in ("192.0.2.1", "8.8.8.8", "127.0.0.53"):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as end:
                end.settimeout(2)
                answer = end.connect_ex((target, 53))
                assert answer in (errno.ENETUNREACH, errno.ECONNREFUSED), (target, errno.errorcode.get(answer))
    fenced = pair.status().wan.outside["fenced"]
    assert pair.run("a", "ip", "route", "add", "default", "via", "198.18.2.1").returncode == 0
    with pair.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"out", ("8.8.8.8", 53))
    eventually(lambda: pair.status().wan.outside["fenced"] == fenced + 1)
    assert pair.run("a", "ip", "route", "del", "default").returncode == 0
    links = json.loads(pair.run("a", "ip", "-j", "link").stdout)
    assert {link["ifname"] for link in links} == {"lo", "wan0"}


def test_an_address_of_no_node_is_where_routes_say_as_a_routing_daemon_would_set_them(whole: Lab) -> None:
    anycast = "203.0.113.1"
    assert whole.run("b", "ip", "address", "add", f"{anycast}/32", "dev", "lo").returncode == 0
    with whole.inside("a"), socket.socket() as end:
        assert end.connect_ex((anycast, 7)) == errno.ENETUNREACH
    assert whole.run("a", "ip", "route", "add", "203.0.113.0/24", "via", "198.18.2.1").returncode == 0
    before = counted(whole, "a", "b")["arrived"]
    with whole.inside("a"), socket.create_connection((anycast, 7), timeout=5) as end:
        end.sendall(b"to the nearest")
        assert end.recv(100) == b"to the nearest"
    assert counted(whole, "a", "b")["arrived"] > before
    assert whole.run("a", "ip", "route", "del", "203.0.113.0/24").returncode == 0
    assert whole.run("b", "ip", "address", "del", f"{anycast}/32", "dev", "lo").returncode == 0


def test_the_world_of_the_documentation_is_as_far_apart_as_the_earth_says(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/lab.md").read_text().split("```toml\n")[1].split("```")[0]
    with Lab.up(text.replace('"three"', f'"docs-{os.getpid()}"'), tmp_path / "lab") as lab:
        assert all(p["is_alive"] for node in lab.status().nodes for p in node.programs)
        for a, b, rtt_ms in [
            ("gamer", "game", 81.2),
            ("ams", "game", 87.9),
            ("sin", "game", 230.1),
            ("iad", "game", 4.9),
        ]:
            assert connect_s(lab, a, b) == pytest.approx(rtt_ms * MS, abs=TOLERANCE_S), (a, b)


def test_nodes_without_a_link_do_not_reach_each_other(pair: Lab) -> None:
    unlinked = pair.status().wan.outside["unlinked"]
    with pair.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", ("198.18.3.1", 7))
    eventually(lambda: pair.status().wan.outside["unlinked"] == unlinked + 1)
    with pytest.raises(LabError, match="there is no link from a to c"):
        pair.link("a", "c", loss=1)


def test_wrong_names_and_values_change_nothing_and_are_told(pair: Lab) -> None:
    shape = pair.direction("a", "b").shape
    for wrong, told in [
        (lambda: pair.fail("aa"), "no node is called 'aa' (did you mean 'a'?)"),
        (lambda: pair.link("a", "b", loss=2), "loss is 2: 0 to 1"),
        (lambda: pair.link("a", "b", rtt_ms=1, one_way=True), "rtt_ms is of both ways"),
        (lambda: pair.inside("d"), "no node is called 'd'"),
    ]:
        with pytest.raises(LabError) as refused:
            wrong()
        assert told in str(refused.value)
    assert pair.direction("a", "b").shape == shape


def test_what_the_lab_has_not_started_lives_on_and_a_dead_wan_is_taken_down(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    lab = Lab.up(PAIR.format(python=sys.executable), folder, f"dead-{os.getpid()}")
    with lab.inside("a"):
        foreign = subprocess.Popen(["sleep", "600"])
    try:
        [wan] = [pid for pid in processes_that_mention(str(folder)) if "relay" in command_line(pid)]
        os.kill(wan, signal.SIGKILL)
        eventually(lambda: refuses(lab))
        assert lab.down() == [f"process {foreign.pid} in lab-dead-{os.getpid()}-a"]
        assert foreign.poll() is None
        assert not folder.exists()
    finally:
        foreign.kill()
        foreign.wait()


def test_who_may_not_make_namespaces_is_told_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = "import os\nfrom causeway.lab import Lab\nfrom pathlib import Path\nos.setuid(65534)\n"
    code += f"Lab.up({PAIR.format(python='python')!r}, Path({str(tmp_path / 'x')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "run it as root" in done.stderr, done.stderr
    assert not (tmp_path / "x").exists()


def test_a_program_that_does_not_start_is_told_with_its_last_words_and_nothing_is_left(tmp_path: Path) -> None:
    text, folder = '[nodes.ams]\nkind = "pop"', tmp_path / "lab"
    (tmp_path / "file").write_text("in the way")
    folder.symlink_to(tmp_path / "file")
    with pytest.raises(LabError, match="cannot be used"):
        Lab.up(text, folder, "x")
    folder.unlink()
    name = f"dies-{os.getpid()}"
    os.environ["PYTHONHASHSEED"] = "no number"  # no Python starts with this
    try:
        with pytest.raises(LabError, match="PYTHONHASHSEED") as refused:
            Lab.up(text, folder, name)
    finally:
        del os.environ["PYTHONHASHSEED"]
    assert refused.value.code == "lab_wan"
    assert not folder.exists() and not Path(f"/run/netns/lab-{name}-ams").exists()


def test_a_namespace_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    name = f"taken-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", f"lab-{name}-b"], check=True, env=environment())
    try:
        with pytest.raises(LabError, match="is there already: give this world another name"):
            Lab.up(PAIR.format(python=sys.executable), tmp_path / "x", name)
        assert not (tmp_path / "x").exists()
        assert Path(f"/run/netns/lab-{name}-b").exists(), "it is somebody else's"
    finally:
        subprocess.run(["ip", "netns", "delete", f"lab-{name}-b"], check=True, env=environment())


def round_trip_s(lab: Lab, family: int = 4, within_s: float = 10) -> float:
    """The shortest of some, by a connection that stands."""
    address = "198.18.2.1" if family == 4 else "2001:db8:2::1"
    took = []
    with lab.inside("gamer"), socket.create_connection((address, 7000), timeout=within_s) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(6):
            began_s = time.perf_counter()
            end.sendall(b"ping")
            assert end.recv(100) == b"ping"
            took.append(time.perf_counter() - began_s)
    return min(took)


def connect_s(lab: Lab, a: str, b: str) -> float:
    """The shortest of some handshakes."""
    took = []
    with lab.inside(a):
        for _ in range(4):
            began_s = time.perf_counter()
            with socket.create_connection((lab.world.node(b).address, 7), timeout=5):
                took.append(time.perf_counter() - began_s)
    return min(took)


def ask(lab: Lab, node: str) -> bool:
    with lab.inside("a"), socket.create_connection((lab.world.node(node).address, 7), timeout=1):
        return True


def connected(family: int) -> socket.socket:
    end = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    end.setsockopt(*((socket.IPPROTO_IP, 10, 2) if family == 4 else (socket.IPPROTO_IPV6, 23, 2)))  # never fragment
    end.connect(("198.18.2.1" if family == 4 else "2001:db8:2::1", 7))
    return end


def mtu(end: socket.socket, family: int) -> int:
    return end.getsockopt(*((socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)))


def answers(end: socket.socket, datagram: bytes) -> bool:
    end.send(datagram)
    return end.recv(2000) == datagram


def counted(lab: Lab, a: str, b: str) -> dict[str, int]:
    return lab.direction(a, b).counts


def refuses(lab: Lab) -> bool:
    try:
        lab.status()
    except LabError as error:
        return error.code == "lab_not_up"
    return False


def pins_of(lab: Lab, node: str) -> Path:
    """Where an edge keeps what is in the kernel: by its namespace and its folder."""
    inode = Path(f"/run/netns/{lab.namespace(node)}").stat().st_ino
    state = bytes(lab.node_folder(node) / "causeway-data/edge")
    return PINS / hashlib.sha256(inode.to_bytes(8, "little") + state).hexdigest()[:16]


def processes_that_mention(text: str) -> list[int]:
    return [pid for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
            if text in command_line(pid)]  # fmt: skip


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
