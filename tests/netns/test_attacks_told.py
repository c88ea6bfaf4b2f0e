"""An attack on a real edge, as people see it: listed, explained, logged, switched off, known after a restart."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from support import frames
from support.carried import EDGE, ORIGIN, Middle
from support.echo import ask, start_echo
from support.edge import CAUSEWAY, need_guard
from support.frames import Wire
from support.meanwhile import again_and_again
from support.namespaces import Namespaces
from support.patience import eventually
from support.program import Programs, environment

pytestmark = pytest.mark.alone

ECHO, HIGH, OFF = 7000, 9801, 9802
SWITCH_S = 1.0
FLOOD_PER_S = 30_000  # what is too many SYNs for an application of high sensitivity, and little for this machine


class Besieged(Middle):
    """An edge with an application of high sensitivity and one that nothing automatic is to touch."""

    def begin(self) -> None:
        self.edge.start()
        start_echo(self.programs, ORIGIN[4], ECHO, inside=self.origin)
        self.high, self.off = (
            self.edge.create_application(
                f"tcp/{port}",
                f"tcp://{ORIGIN[4]}:{ECHO}",
                x_causeway={"name": name, "mitigation": name, "carrier": "engine"},
            )
            for port, name in ((HIGH, "high"), (OFF, "off"))
        )
        with self.middle:
            shown = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
        with self.client:
            device = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
        to_client = next(link for link in shown if link["ifname"] != "lo")
        self.wire = Wire(self.client, next(d["ifname"] for d in device if d["ifname"] != "lo"), to_client["address"])

    def flood(self, *ports: int) -> AbstractContextManager[None]:
        syns = [frames.tcp(("198.18.128.1", 1024), (EDGE[4], port), frames.SYN) for port in ports]

        def shoot() -> None:
            for syn in syns:
                self.wire.flood(syn, 512)
            time.sleep(512 / FLOOD_PER_S)

        return again_and_again(shoot)

    def mitigation(self) -> dict[str, Any]:
        [edge] = self.edge.result("GET", "/api/v1/mitigation")["edges"]
        assert isinstance(edge, dict)
        return edge

    def attacks(self, **query: str) -> list[dict[str, Any]]:
        answer = self.edge.http.get("/api/v1/attacks", params=query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["result"]
        return found

    def held(self) -> list[str]:
        return [hold["application"] for hold in self.mitigation()["holds"]]

    def command(self, *arguments: str) -> str:
        with self.middle:
            token = environment() | {"CAUSEWAY_API_TOKEN": self.edge.token, "CAUSEWAY_URL": self.edge.url}
            done = subprocess.run([CAUSEWAY, *arguments], capture_output=True, text=True, env=token, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def lab(
    namespaces: Namespaces, module_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Besieged]:
    need_guard()
    made = Besieged(namespaces, module_programs, tmp_path_factory.mktemp("data"))
    made.begin()
    try:
        yield made
    finally:
        made.wire.close()
        made.edge.close()
        made.edge.stop()
        made.flush()


def test_an_attack_is_told_held_switched_off_and_remembered(lab: Besieged) -> None:
    lab.edge.result("PUT", "/api/v1/mitigation", {"enabled": True})
    assert (lab.attacks(), lab.held()) == ([], [])
    with lab.flood(HIGH, OFF):
        attack = eventually(lambda: lab.attacks(active="true"), within_s=20)[0]
        assert attack["application"] == lab.high, "the other one is left alone, whatever comes to it"
        assert attack["application_name"] == "high"
        eventually(lambda: lab.held() == [lab.high], within_s=10)
        state = lab.mitigation()
        assert (state["is_enabled"], state["is_attached"], state["missing"]) == (True, True, None)
        assert "holds" in lab.edge.status()["edges"][0]["mitigation"]
        assert "automatic: " in lab.command("why-blocked", "198.18.128.9")
        assert "attacks going on" in lab.command("status")
        assert "goes on" in lab.command("attacks", "--active", "--app", "high")
        assert f"attack {attack['id']} on application {lab.high}: " in lab.edge.output

        with lab.client:  # its veth takes no answer by XDP, as a container's would not
            assert [ask(HIGH, EDGE[4]) for _ in range(20)] == [b"hello"] * 20
        assert "native, cookies by the stack" in lab.command("status")

        began_s = time.monotonic()
        told = lab.edge.result("PUT", "/api/v1/mitigation", {"enabled": False})
        assert told["enabled"] is False
        assert [(edge["is_enabled"], edge["rules"], edge["holds"]) for edge in told["edges"]] == [(False, [], [])]
        took_s = time.monotonic() - began_s
        print(f"everything automatic ended in {took_s * 1000:.0f} ms, under fire")
        assert took_s < SWITCH_S
        before = cookies(lab)
        time.sleep(1.0)
        assert cookies(lab) == before, "nothing is answered in the kernel any more"
        assert lab.held() == []
    with lab.client:
        assert ask(HIGH, EDGE[4]) == b"hello"
    eventually(lambda: not lab.attacks(active="true"), within_s=10)

    lab.edge.restart()
    [remembered] = lab.attacks()
    assert (remembered["id"], remembered["is_active"]) == (attack["id"], False)
    assert remembered["ended_on"] > remembered["started_on"]
    whole = lab.edge.result("GET", f"/api/v1/attacks/{attack['id']}")
    assert whole["evidence"] and bytes.fromhex(whole["evidence"][0])
    assert attack["id"] in lab.command("attacks", "show", attack["id"][:8])
    assert "automatic mitigation is off" in lab.command("mitigation")
    assert lab.edge.output.count(f"attack {attack['id']}") == 0, "it is not told again"


def cookies(lab: Besieged) -> int:
    verdicts: dict[str, int] = lab.edge.status()["edges"][0]["guard"]["verdicts"]
    return verdicts.get("cookie_sent", 0)
