"""One attack on causeway with automatic mitigation, as JSON: what was kept, what it did, and when.

Run by test_floods_answered.py; `python mitigated.py spoofed-SYN kernel 400000` is the same by hand.
"""

import json
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parents[1] / "bench"))  # behind this directory, whose run.py is meant

import machine  # noqa: E402
from bench import start_origin  # noqa: E402
from contestants import Contestant, _causeway, _causeway_version  # noqa: E402
from place import field  # noqa: E402
from run import attacked  # noqa: E402
from sample import Load, wait_until_carrying  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402
from world import directory  # noqa: E402

QUIET_S = 2


def main(attack: str, carrier: str, rate: int, seconds: int = 5, peace_s: float = 0) -> int:
    scenario = next(one for one in SCENARIOS if one.name.replace(" ", "-").replace(",", "") == attack)
    row = Contestant(
        "mitigated",
        lambda place: _causeway(place, carrier=carrier, guard="auto"),
        _causeway_version,
        is_peer=False,
        splices=carrier == "kernel",
    )
    with ExitStack() as stack:
        flood, load = machine.build("causeway-flood"), machine.build("causeway-load")
        home = stack.enter_context(directory())
        place = stack.enter_context(field(1, flood))
        origin = start_origin(stack, load, place.world, 1, ())
        loads = Load(load, place.world, origin, 1, 0.2, ())
        most = min(rate, int(0.8 * place.ceiling()))
        running = row.run(place.world, 0, home / "mitigated", ())
        stack.callback(running.stop)
        wait_until_carrying(loads, running)
        time.sleep(peace_s)
        found = attacked(place, load, running, scenario, most, QUIET_S, seconds)
        running.check_alive()
        log = (home / "mitigated" / "log").read_text()
        strays = place.world.strays()
    lines = [line for line in log.splitlines() if "attack " in line or "mitigation" in line or "ERROR" in line]
    answered = [int(ms) for ms in re.findall(r"is answered, after (\d+) ms", log)]
    kinds = re.findall(r"attack \w+ on [^:]+: (\w+),", log)
    told = {"answered_after_ms": answered, "kinds": sorted(set(kinds)), "log": lines, "strays": strays, "rate": most}
    print(json.dumps(found | told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *(int(word) for word in sys.argv[4:])))
