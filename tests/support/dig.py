"""What `dig` of Debian's bind9-dnsutils hears: the header, and records as it prints them."""

import re
import subprocess
from dataclasses import dataclass

from support.program import need


@dataclass(frozen=True)
class Heard:
    status: str  # NOERROR, NXDOMAIN, …
    flags: frozenset[str]
    answers: tuple[str, ...]  # lines of the answer section, blanks as one space
    authorities: tuple[str, ...]
    text: str

    @property
    def addresses(self) -> list[str]:
        return sorted(line.split()[4] for line in self.answers if line.split()[3] in ("A", "AAAA"))

    @property
    def subnet(self) -> str | None:
        found = re.search(r"CLIENT-SUBNET: (\S+)", self.text)
        return found[1] if found else None


def dig(port: int, name: str, kind: str = "A", *more: str, server: str = "127.0.0.1") -> Heard:
    need("dig")
    command = ["dig", f"@{server}", "-p", str(port), "+norec", "+tries=1", "+time=5", name, kind, *more]
    text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    status = re.search(r"status: (\w+)", text)
    if status is None:
        raise OSError(f"no answer: {text}")  # `eventually` takes this for not yet
    flags = re.search(r"flags: ([^;]*);", text)
    return Heard(
        status[1],
        frozenset(flags[1].split() if flags else ()),
        _section(text, "ANSWER"),
        _section(text, "AUTHORITY"),
        text,
    )


def _section(text: str, name: str) -> tuple[str, ...]:
    found = re.search(rf";; {name} SECTION:\n(.*?)\n\n", text, re.DOTALL)
    return tuple(" ".join(line.split()) for line in found[1].splitlines()) if found else ()
