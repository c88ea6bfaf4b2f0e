"""What a list of a million prefixes costs: import, memory, replacement, and rules made beside it.

Starts `causeway up` on loopback with data of its own, writes JSON beside the other results. With --check it fails
when a goal is missed. Needs nothing but what `make setup` brings.
"""

import argparse
import json
import random
import socket
import sys
import tempfile
import time
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

from machine import facts  # noqa: E402
from support.echo import start_echo  # noqa: E402
from support.edge import Running  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.program import Programs  # noqa: E402

PREFIXES = 1_000_000
LOAD_S, MEMORY_MB, IN_FORCE_MS = 3.0, 200.0, 100.0  # goals
LISTS, RULES = "/api/v1/firewall/lists", "/api/v1/firewall/rules"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=BENCH / "results", metavar="DIRECTORY")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder:
        programs = Programs(Path(folder))
        running = Running(programs, Path(folder) / "data")
        try:
            figures = measured(running.start(), programs)
        finally:
            running.close()
            programs.end()
    goals = {
        f"import of {PREFIXES:,} prefixes: at most {LOAD_S:g} s": figures["import_s"] <= LOAD_S,
        f"memory at the most: at most {MEMORY_MB:g} MB more": figures["most_memory_mb"] <= MEMORY_MB,
        f"a rule refuses within {IN_FORCE_MS:g} ms of its answer": figures["in_force_ms"] <= IN_FORCE_MS,
    }
    result = {"format": 1, "machine": facts(), "figures": figures, "goals": goals}
    print(json.dumps(result, indent=2))
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"firewall-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nresults: {path}")
    for sentence, is_met in goals.items():
        print(f"{'met' if is_met else 'MISSED'}: {sentence}")
    return 1 if options.check and not all(goals.values()) else 0


def measured(running: Running, programs: Programs) -> dict[str, float]:
    port = free_port()
    running.create_application(f"tcp/{port}", f"tcp://127.0.0.1:{start_echo(programs, greeting='a')}", ip_firewall=True)
    zone = running.applications.split("/")[4]
    text = addresses()
    before = memory_mb(running)
    import_s = timed(lambda: put(running, text))
    rule_s = timed(lambda: rule(running, zone, "list", "million"))
    idle, most = memory_mb(running), memory_mb(running, "VmHWM")
    replace_s = timed(lambda: put(running, text))
    requests_ms, in_force_ms = [], 0.0
    for _ in range(50):
        began_s = time.perf_counter()
        made = rule(running, zone, "ip", "127.0.0.1")
        answered_s = time.perf_counter()
        if is_let_in(port):
            raise SystemExit("a client was let in after the answer to the rule that blocks it")
        in_force_ms = max(in_force_ms, (time.perf_counter() - answered_s) * 1000)
        requests_ms.append((answered_s - began_s) * 1000)
        running.result("DELETE", f"{RULES}/{made}")
    return {
        "text_bytes": len(text),
        "import_s": round(import_s, 2),
        "first_rule_that_names_it_ms": round(rule_s * 1000, 1),
        "replace_in_use_s": round(replace_s, 2),
        "memory_mb": round(idle - before, 1),
        "most_memory_mb": round(most - before, 1),
        "rule_beside_it_p50_ms": round(sorted(requests_ms)[len(requests_ms) // 2], 1),
        "rule_beside_it_most_ms": round(max(requests_ms), 1),
        "in_force_ms": round(in_force_ms, 1),
    }


def addresses() -> str:
    """Spread over IPv4, the same each time."""
    generator = random.Random(1)
    seen: set[int] = set()
    while len(seen) < PREFIXES:
        seen.add(generator.randrange(16 << 24, 96 << 24))
    return "".join(f"{IPv4Address(address)}\n" for address in seen)


def put(running: Running, text: str) -> None:
    answer = running.http.put(f"{LISTS}/million", content=text)
    if answer.status_code != 200:
        raise SystemExit(f"the import was refused: {answer.text}")


def rule(running: Running, zone: str, target: str, value: str) -> str:
    body = {"scope": {"type": "zone", "id": zone}, "configuration": {"target": target, "value": value}, "mode": "block"}
    return str(running.result("POST", RULES, body)["id"])


def is_let_in(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            return connection.recv(1) == b"a"
    except ConnectionResetError:
        return False


def memory_mb(running: Running, kind: str = "VmRSS") -> float:
    status = Path(f"/proc/{running.serving_pid}/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) / 1000


def timed(act: object) -> float:
    assert callable(act)
    began_s = time.perf_counter()
    act()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    sys.exit(main())
