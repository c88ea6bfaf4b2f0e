"""make test-attacks: what a user keeps while somebody floods, with causeway and with what others would put there.

Each contestant stands alone, is used by a legitimate client at a fixed rate (200 connections/s, 1,000 requests/s on
200 long connections, 1,000 datagrams/s in 200 sessions), and attacked on the same wire for some seconds. *Kept*
is what was answered rightly within a second, of all that was due while the attack went on. Figures stand beside
what the generator can do here. Ends with 0; with --check, 1 where a goal of the last contestant is missed; 3 where
it cannot be done.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench"))

import defended  # noqa: E402
import machine  # noqa: E402
import table  # noqa: E402
from bench import start_origin  # noqa: E402
from contestants import Running, Unavailable  # noqa: E402
from place import USERS, Field, field  # noqa: E402
from sample import Load, wait_until_carrying  # noqa: E402
from scenarios import ECHO, MOST_PER_S, SCENARIOS, UDP_ECHO, Scenario  # noqa: E402
from world import directory, inside  # noqa: E402

AFTER_S = 1


def main() -> int:
    options = _options()
    results: list[dict[str, Any]] = []
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nft"):
        print("attacks: cannot be made here: root, ip and nft are needed", file=sys.stderr)
        return 3
    with ExitStack() as stack:
        flood, load = machine.build("causeway-flood"), machine.build("causeway-load")
        home = stack.enter_context(directory())
        rows = options.contestants
        place = stack.enter_context(field(len(rows), flood))
        origin = start_origin(stack, load, place.world, len(rows), ())
        loads = Load(load, place.world, origin, 1, 0.2, ())
        ceiling = place.ceiling()
        most = min(options.rate, int(0.8 * ceiling))
        print(f"the generator can do {ceiling:,} packets/s here; attacks are {most:,}/s", flush=True)
        for turn in range(options.rounds):
            for number, row in enumerate(rows):
                try:
                    with defended.standing(row, place.world, number, home / f"{row.name}-{turn}") as running:
                        wait_until_carrying(loads, running)
                        for scenario in options.only:
                            found = attacked(place, load, running, scenario, most, options.quiet, options.seconds)
                            found |= {"contestant": row.name, "round": turn}
                            results.append(found)
                            print(_line(found), flush=True)
                            running.check_alive()
                except Unavailable as reason:
                    print(f"!!! {row.name} IS LEFT OUT: {reason}", file=sys.stderr, flush=True)
        strays = place.world.strays()
    content = {
        "format": 1,
        "kind": "attacks",
        "started": time.strftime("%Y-%m-%dT%H-%M-%S"),
        "machine": machine.facts(),
        "ceiling_per_s": ceiling,
        "rate_per_s": most,
        "strays": strays,
        "results": results,
    }
    if options.results:
        options.results.write_text(json.dumps(content, indent=1) + "\n")
    for page in options.markdown:
        table.refresh(page, content)
    missed = [found for found in results if found["contestant"] == rows[-1].name and found["missed"]]
    for found in missed:
        print(f"missed: {found['contestant']}: {found['scenario']}: {', '.join(found['missed'])}")
    return 1 if strays or (options.check and missed) else 0


def attacked(
    place: Field, load: Path, running: Running, scenario: Scenario, most: int, quiet: int, seconds: int
) -> dict[str, Any]:  # fmt: skip
    """One attack; answers what was kept and what arrived."""
    listen = running.place.listen
    whole = quiet + seconds + AFTER_S
    words = ["keep", "--to", f"{listen}:{ECHO}", "--seconds", str(whole)]
    words += ["--sources", USERS] if scenario.crowd else []
    words += ["--udp-to", f"{listen}:{UDP_ECHO}"] if running.contestant.carries_udp else []
    command = [*inside(place.world.client), str(load), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as client:
        assert client.stdout
        if "ready" not in client.stdout.readline():
            raise Unavailable("the long connections could not be opened")
        time.sleep(quiet)
        before, to = place.arrived(), f"{listen}:{scenario.port}"
        if scenario.crowd:
            crowd = json.loads(place.crowd(load, scenario.crowd, to, seconds).communicate()[0])
            sent = sum(second["begun"] for second in crowd["seconds"])
        else:
            rate = int(most * scenario.share / len(scenario.kinds))
            floods = [place.attack(kind, to, rate, seconds, scenario.ports) for kind in scenario.kinds]
            sent = sum(json.loads(flood.communicate()[0])["sent"] for flood in floods)
        arrived = place.arrived() - before
        told = json.loads(client.stdout.readlines()[-1])
    return _judged(scenario, told, quiet, seconds) | {"sent": sent, "arrived": arrived, "seconds": seconds}


def _judged(scenario: Scenario, told: dict[str, Any], quiet: int, seconds: int) -> dict[str, Any]:
    during = told["seconds"][quiet : quiet + seconds]
    kept: dict[str, float | None] = {}
    for what in ("connections", "requests", "datagrams"):
        due = sum(second[what]["due"] for second in during)
        kept[what] = sum(second[what]["kept"] for second in during) / due if due else None
    good = [_share(second) >= scenario.kept for second in during]
    # The second from which on all of them are good: 0 is at once.
    mitigated = next((start for start in range(len(good)) if all(good[start:])), None)
    missed = [
        f"kept {share:.2%} of {what}" for what, share in kept.items() if share is not None and share < scenario.kept
    ]
    if told["broken"]:
        missed.append(f"{told['broken']} long connections broken")
    return {
        "scenario": scenario.name,
        "row": scenario.row,
        "kept": kept,
        "broken": told["broken"],
        "wrong": told["wrong"],
        "mitigated_after_s": mitigated,
        "connect_p99_us": told["connect_p99_us"],
        "missed": missed,
        "told": told["seconds"],
    }


def _share(second: dict[str, Any]) -> float:
    due = sum(part["due"] for part in second.values())
    return sum(part["kept"] for part in second.values()) / due if due else 1.0


def _line(found: dict[str, Any]) -> str:
    shares = ", ".join(f"{what} {share:.2%}" for what, share in found["kept"].items() if share is not None)
    mitigated = found["mitigated_after_s"]
    after = "never good" if mitigated is None else f"good from second {mitigated} on"
    per_s = found["arrived"] / found["seconds"]
    return f"{found['contestant']}: {found['scenario']}: kept {shares}; {after}; {found['broken']} broken; {per_s:,.0f} packets/s arrived"  # noqa: E501


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = {row.name: row for row in defended.CONTESTANTS}
    attacks = {scenario.name.replace(" ", "-").replace(",", ""): scenario for scenario in SCENARIOS}
    parser.add_argument("--contestants", default=",".join(names), help="comma-separated; the last one is judged")
    parser.add_argument("--only", default=",".join(attacks), help=f"attacks, comma-separated: {', '.join(attacks)}")
    parser.add_argument("--seconds", type=int, default=6, help="of each attack")
    parser.add_argument("--quiet", type=int, default=2, help="seconds before it")
    parser.add_argument("--rate", type=int, default=MOST_PER_S, help="packets a second of an attack")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--markdown", type=Path, action="append", default=[], help="a page with a place for the table")
    found = parser.parse_args()
    try:
        found.contestants = [names[name] for name in found.contestants.split(",")]
        found.only = [attacks[name] for name in found.only.split(",")]
    except KeyError as error:
        parser.error(f"{error} is not known")
    return found


if __name__ == "__main__":
    sys.exit(main())
