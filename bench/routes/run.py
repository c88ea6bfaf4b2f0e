"""How much of what is possible does routing reach, beside rules that others use? On measured meshes, replayed.

Prints a table for each mesh and writes JSON beside the other results. With --check it fails when a goal is missed.
Needs the measurements (--data) and nothing but what `make setup` brings.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(Path(__file__).resolve().parent)]

from cuts import DATA, MESHES, SEEDS, judged, missing  # noqa: E402
from machine import facts  # noqa: E402
from rules import RULES  # noqa: E402
from yardstick import Cut, Figures, figures, oracle_ms, price_of_mesh, price_of_pair  # noqa: E402

from causeway.routing.replay import replay  # noqa: E402

OURS = "causeway"
REACH = {"volatile": 0.80, "stable": 0.93}  # goals
SLOWER = 0.01
DIGITS = 5
PRICES = {"mesh": price_of_mesh, "pair": price_of_pair}  # one median RTT: of all pairs, or of the pair


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIRECTORY", help="where the measurements are")
    parser.add_argument("--results", type=Path, default=BENCH / "results", metavar="DIRECTORY")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    if absent := missing(options.data):
        print(f"bench: {options.data} has no {', '.join(absent)}; name the directory with --data", file=sys.stderr)
        return 2
    found = {mesh: measured(judged(mesh, options.data)) for mesh in MESHES}
    goals = {sentence: is_met for mesh in MESHES for sentence, is_met in judge(mesh, found[mesh]).items()}
    for mesh in MESHES:
        print(table(mesh, found[mesh]))
    result = {"format": 1, "machine": facts(), "seeds": SEEDS, "figures": found, "goals": goals}
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"routes-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"results: {path}")
    for sentence, is_met in goals.items():
        print(f"{'met' if is_met else 'MISSED'}: {sentence}")
    return 1 if options.check and not all(goals.values()) else 0


def measured(cuts: list[Cut]) -> dict:
    """Figures of every rule: of each cut and their mean, by both prices."""
    found: dict = {price: {name: {} for name in (OURS, *RULES)} for price in PRICES}
    for cut in cuts:
        started = time.monotonic()
        ours = ours_by(cut)
        print(f"{cut.name}: ours in {time.monotonic() - started:.1f} s", file=sys.stderr)
        for price, price_of in PRICES.items():
            price_ms = price_of(cut)
            oracle = oracle_ms(cut, price_ms)
            for name in (OURS, *RULES):
                candidate = ours if name == OURS else RULES[name](cut, price_ms)
                kept = asdict(figures(cut, candidate, price_ms, oracle))
                found[price][name][cut.name] = {key: round(value, DIGITS) for key, value in kept.items()}
    for rules in found.values():
        for by_cut in rules.values():
            by_cut["mean"] = {
                field.name: round(float(np.mean([one[field.name] for one in by_cut.values()])), DIGITS)
                for field in fields(Figures)
            }
    return found


def ours_by(cut: Cut) -> np.ndarray:
    choice = replay(cut.rtt_ms, cut.train, cut.slice_s, cut.relay_cost_ms).choice
    return choice[cut.train :] + np.int16(1)


def judge(mesh: str, found: dict) -> dict[str, bool]:
    rules = found["mesh"]
    ours = rules[OURS]["mean"]
    best = max(rules[name]["mean"]["reach"] for name in RULES)
    return {
        f"{mesh}: priced reach of at least {REACH[mesh]:.0%} (is {ours['reach']:.1%})": ours["reach"] >= REACH[mesh],
        f"{mesh}: ahead of every other rule (the best: {best:.1%})": ours["reach"] > best,
        f"{mesh}: at most {SLOWER:.0%} of pairs slower than direct by more than 5 % (is {ours['slower_share']:.2%})": (
            ours["slower_share"] <= SLOWER
        ),
    }


def table(mesh: str, found: dict) -> str:
    lines = [f"{mesh}: means of {len(found['mesh'][OURS]) - 1} cuts", ""]
    lines += ["| rule | priced reach | by each pair's price | mean ms | switches per pair | pairs slower |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, by_cut in found["mesh"].items():
        mean = by_cut["mean"]
        lines.append(
            f"| {name} | {mean['reach']:.1%} | {found['pair'][name]['mean']['reach']:.1%} | {mean['mean_ms']:.1f} "
            f"| {mean['switches_per_pair']:.2f} | {mean['slower_share']:.2%} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
