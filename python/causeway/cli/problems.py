"""What a failed command says and the number it exits with.

One line per problem: code, side, message with the offending value; then the next step. Pure but for `report`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from causeway.cli.escape import printable

if TYPE_CHECKING:
    from causeway.client import Problem

EXIT_REFUSED = 1
EXIT_MISUSE = 2
EXIT_UNREACHABLE = 3

NEXT_STEPS = {  # only where the command line knows more than the server's own words
    1061: "see the zones with `causeway zones list`",
    10000: "set CAUSEWAY_API_TOKEN, or pass --token-file DIR/token of the server's data directory",
    11004: "static edge addresses (--edge-ip) and dynamic ones cannot be exchanged; create a new application",
    16001: "see the zones with `causeway zones list`",
    19004: "make another with `causeway tokens create NAME --scope write`",
}


class Misuse(Exception):
    """The command line cannot be obeyed as it stands; the message says what to type instead."""


class Missing(Exception):
    """The server has nothing of the name given."""


def explain(problem: Problem) -> list[str]:
    """Return the lines for one refused thing, most important first."""
    code = f"{problem.code} " if problem.code else ""
    lines = [f"error {code}({problem.side}): {printable(problem.message)}"]
    if problem.pointer:
        lines.append(f"  field  {printable(problem.pointer)}")
    if step := NEXT_STEPS.get(problem.code):
        lines.append(f"  next   {step}")
    return lines


def unreachable(url: str, reason: str) -> list[str]:
    return [
        f"error server_unreachable (operator): {printable(url)}: {printable(reason)}",
        "  next   start one with `causeway up`, or name the right one with --url or CAUSEWAY_URL",
    ]


def report(error: Exception) -> int | None:
    """Print what went wrong and return the exit code; None for a mistake of our own."""
    from causeway.client import Refused, Unreachable
    from causeway.lab.problem import LabError

    match error:
        case Misuse():
            lines, code = [f"error wrong_usage (operator): {printable(str(error))}"], EXIT_MISUSE
        case Missing():
            lines, code = [f"error not_found (operator): {printable(str(error))}"], EXIT_REFUSED
        case LabError():
            lines, code = [f"error {error.code} (operator): {printable(str(error))}"], EXIT_REFUSED
        case Refused():
            lines, code = [line for p in error.problems for line in explain(p)], EXIT_REFUSED
        case Unreachable():
            lines, code = unreachable(error.url, error.reason), EXIT_UNREACHABLE
        case _:
            return None
    print("\n".join(lines), file=sys.stderr)
    return code
