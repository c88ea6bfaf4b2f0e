"""What was found, as a table in a page between `<!-- attacks -->` and `<!-- /attacks -->`."""

import statistics
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- attacks -->\n", "<!-- /attacks -->"


def refresh(page: Path, content: dict[str, Any]) -> None:
    """Put the table of `content` (what run.py writes) into `page`.

    Raises:
        ValueError: the page has no place for it.
    """
    text = page.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: {BEGIN.strip()} and {END}")
    page.write_text(head + begin + _table(content) + end + tail)


def _table(content: dict[str, Any]) -> str:
    facts, results = content["machine"], content["results"]
    names = list(dict.fromkeys(found["contestant"] for found in results))
    lines = [
        f"Measured on {content['started'][:10]}, commit {facts['commit'][:12]}, {facts['cpus']} x {facts['cpu']}, "
        f"kernel {facts['kernel']}. The generator can do {content['ceiling_per_s']:,} packets/s here; "
        f"attacks are at most {content['rate_per_s']:,}/s.",
        "",
        "| attack | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for attack in dict.fromkeys(found["scenario"] for found in results):
        cells = []
        for name in names:
            found = [found for found in results if (found["scenario"], found["contestant"]) == (attack, name)]
            cells.append(_cell(found) if found else "-")
        lines.append(f"| {attack} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: list[dict[str, Any]]) -> str:
    """Medians over rounds of what was kept, the worst of breakages."""
    shares = []
    for what in ("connections", "requests", "datagrams"):
        values = [attack["kept"][what] for attack in found if attack["kept"][what] is not None]
        shares.append(f"{statistics.median(values):.1%}" if values else "-")
    taken = statistics.median(attack["arrived"] / attack["seconds"] for attack in found)
    broken = max(attack["broken"] for attack in found)
    return " / ".join(shares) + f" ({taken / 1000:,.0f} k/s" + (f", {broken} cut)" if broken else ")")
