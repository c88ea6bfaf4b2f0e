"""What a list of a million prefixes costs in the kernel's guard: the rule that names it, rules made beside it, memory.

Three networks in namespaces (root), an edge on the fast path. Prints JSON. With --check it fails when
a goal is missed.
"""

import argparse
import json
import socket
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH / "firewall"), str(BENCH), str(BENCH.parent / "tests")]

from machine import facts  # noqa: E402
from run import addresses, memory_mb, put, rule, timed  # noqa: E402
from support.carried import CLIENT, EDGE, ORIGIN, Middle  # noqa: E402
from support.echo import start_echo  # noqa: E402
from support.namespaces import Namespaces  # noqa: E402
from support.program import Programs  # noqa: E402

PORT, ECHO, ROUNDS, IN_FORCE_MS = 9000, 7000, 20, 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as folder:
        programs, namespaces = Programs(Path(folder)), Namespaces()
        middle = Middle(namespaces, programs, Path(folder) / "data")
        try:
            figures = measured(middle, programs)
        finally:
            middle.edge.close()
            middle.edge.stop()
            middle.flush()
            programs.end()
            namespaces.remove()
    print(json.dumps({"format": 1, "machine": facts(), "figures": figures}, indent=2))
    return 1 if options.check and figures["rule_beside_it_most_ms"] > IN_FORCE_MS else 0


def measured(middle: Middle, programs: Programs) -> dict[str, float]:
    edge = middle.edge
    edge.start()
    start_echo(programs, ORIGIN[4], ECHO, inside=middle.origin)
    edge.create_application(f"tcp/{PORT}", f"tcp://{ORIGIN[4]}:{ECHO}", ip_firewall=True)
    zone = edge.applications.split("/")[4]
    before = memory_mb(edge)
    put(edge, addresses())
    first_ms = timed(lambda: rule(edge, zone, "list", "million")) * 1000
    memory = memory_mb(edge) - before
    requests_ms = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        made = rule(edge, zone, "ip", CLIENT[4])
        requests_ms.append((time.perf_counter() - began_s) * 1000)
        if connects(middle):
            raise SystemExit("a client was let in after the answer to the rule that blocks it")
        edge.result("DELETE", f"/api/v1/firewall/rules/{made}")
        if not connects(middle):
            raise SystemExit("a client was blocked after the answer that its rule is gone")
    return {
        "first_rule_that_names_it_ms": round(first_ms, 1),
        "rule_beside_it_p50_ms": round(sorted(requests_ms)[ROUNDS // 2], 1),
        "rule_beside_it_most_ms": round(max(requests_ms), 1),
        "memory_of_the_process_mb": round(memory, 1),
    }


def connects(middle: Middle) -> bool:
    try:
        with middle.client:
            socket.create_connection((EDGE[4], PORT), timeout=0.1).close()
    except TimeoutError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
