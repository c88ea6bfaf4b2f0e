"""BIRD 2 in words: the file that it includes, and the replies on its control socket. Pure.

The routes of the file lead into an interface that lives as long as causeway does (`supervise/beacon.py`), so that
BIRD itself takes them back when nobody is left to ask it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from causeway.model.anycast import Announcements, Community, Terms
from causeway.model.application import Network

_MOST_REPLY_BYTES = 64 * 1024
_LINE = re.compile(r"([0-9]{4})([ -])(.*)", re.DOTALL)
_TAKEN = {3, 4, 5, 18}  # reconfigured, in progress, queued, confirmed
_COUNT = re.compile(r"([0-9]{1,9}) of [0-9]{1,9} routes? for [0-9]{1,9} networks? in table \S+")
_HEAD = "# What causeway announces now. It writes this file anew at each change: edit bird.conf instead.\n"


class BirdTrouble(Exception):
    """BIRD is not there, or does not do what it is asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What BIRD answered to one command: numbered lines, of which the last number says how it went."""

    lines: tuple[tuple[int, str], ...]

    @property
    def code(self) -> int:
        return self.lines[-1][0]

    @property
    def text(self) -> str:
        return self.lines[-1][1]


@dataclass(slots=True)
class ReplyReader:
    """Bytes in, replies out, however the bytes are cut."""

    _waiting: bytes = b""
    _lines: list[tuple[int, str]] = field(default_factory=list)
    _bytes: int = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that are whole now.

        Raises:
            BirdTrouble: this is not what BIRD says.
        """
        replies = []
        *whole, self._waiting = (self._waiting + data).split(b"\n")
        for line in whole:
            self._bytes += len(line) + 1
            if self._take(line.decode(errors="replace")):
                replies.append(Reply(tuple(self._lines)))
                self._lines, self._bytes = [], 0
        if self._bytes + len(self._waiting) > _MOST_REPLY_BYTES:
            raise BirdTrouble(f"the reply of BIRD has more than {_MOST_REPLY_BYTES} bytes")
        return replies

    def _take(self, line: str) -> bool:
        """Whether that was the last line of a reply."""
        if line.startswith("+"):
            return False  # a message of its log
        if line.startswith(" ") and self._lines:
            self._lines.append((self._lines[-1][0], line[1:]))
            return False
        found = _LINE.fullmatch(line)
        if not found:
            raise BirdTrouble(f"the control socket of BIRD says {line[:80]!r}: is it another program's?")
        self._lines.append((int(found[1]), found[3]))
        return found[2] == " "


def check_greeting(reply: Reply) -> str:
    """Return what it calls itself. Raises BirdTrouble: it is not BIRD that answers."""
    if reply.code != 1 or not reply.text.startswith("BIRD "):
        raise BirdTrouble(f"{reply.text[:80]!r} is not how BIRD 2 greets: is it another program's socket?")
    return reply.text.removesuffix(" ready.")


def check_configured(reply: Reply) -> None:
    """Raises BirdTrouble: BIRD goes on with the configuration that it had."""
    if reply.code not in _TAKEN:
        raise BirdTrouble(f"BIRD refuses its configuration ({reply.code:04}): {reply.text[:200]}: mend bird.conf")


def route_count(reply: Reply, protocol: str) -> int:
    """Of `show route protocol … count`: how many routes of ours are in force. Raises BirdTrouble."""
    if reply.code >= 8000:
        raise BirdTrouble(f"BIRD runs without the file of causeway (no protocol {protocol}): bird.conf must include it")
    for code, text in reply.lines:
        if code in (14, 1007) and (found := _COUNT.match(text)):
            return int(found[1])
    raise BirdTrouble(f"BIRD does not say how many routes {protocol} has, but {reply.text[:80]!r}")


def protocol_name(version: int) -> str:
    return f"causeway_anycast{version}"


def render(announcements: Announcements, versions: Iterable[int], device: str) -> str:
    """The file. A protocol stays where it has no route at the moment: filters may name it, and nothing restarts."""
    parts = [_HEAD]
    for version in sorted(versions):
        routes = [
            f'\troute {prefix} via "{device}"{_attributes(terms)};\n'
            for prefix, terms in sorted(announcements.items(), key=lambda item: _order(item[0]))
            if prefix.version == version
        ]
        parts.append(
            f"protocol static {protocol_name(version)} {{\n\tipv{version};\n\tcheck link;\n{''.join(routes)}}}\n"
        )
    return "".join(parts)


def _order(prefix: Network) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _attributes(terms: Terms) -> str:
    said = [_added(community) for community in terms.communities]
    if terms.med is not None:
        said.append(f"bgp_med = {terms.med};")
    return f" {{ {' '.join(said)} }}" if said else ""


def _added(community: Community) -> str:
    kind = "bgp_community" if len(community) == 2 else "bgp_large_community"
    return f"{kind}.add(({', '.join(str(part) for part in community)}));"
