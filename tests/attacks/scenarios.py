"""The attacks, as a table: what is sent, at whom, and what a user must keep meanwhile.

Numbers and goals: reliability.md 6.3 of the project's reference. Knows nothing of who is attacked.
"""

from dataclasses import dataclass

ECHO, UDP_ECHO = 7001, 7004
MOST_PER_S = 1_000_000  # or 80 % of what the generator can do here
KEPT = 0.999


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    row: int  # of table 6.3
    kinds: tuple[str, ...]  # of causeway-flood
    port: int = ECHO
    ports: int = 1
    share: float = 1.0  # of the rate above
    kept: float = KEPT
    crowd: tuple[str, ...] = ()  # of `causeway-load crowd`, where real connections are made instead


SCENARIOS = (
    Scenario("spoofed SYN", 3, ("spoofed-syn",)),
    Scenario("SYN of one tool", 2, ("fixed-syn",)),
    Scenario("ACK of nothing", 6, ("ack",)),
    Scenario("RST that guesses", 7, ("rst",)),
    Scenario("impossible flags", 8, ("flags",)),
    Scenario("reflected SYN-ACK", 9, ("reflected",)),
    Scenario("random UDP", 11, ("udp",), UDP_ECHO),
    Scenario("random UDP, closed ports", 11, ("udp",), 20_000, 20_000),
    Scenario("fragments", 13, ("fragments",), share=0.5),
    Scenario("GRE", 14, ("gre",)),
    Scenario("echo requests", 14, ("ping",)),
    Scenario(
        "connection flood",
        15,
        (),
        crowd=("--rate", "12800", "--size", "64", "--sources", "198.18.65.0-198.18.65.63"),
    ),
    Scenario("idle hold", 16, (), crowd=("--rate", "4000", "--act", "hold", "--sources", "198.18.65.0-198.18.65.255")),
    Scenario(
        "tried logins",
        27,
        (),
        crowd=("--rate", "1000", "--size", "1000", "--sources", "198.18.65.100-198.18.65.149"),
    ),
    # Last, for whoever has a session leaves its session behind.
    Scenario("amplified answers", 10, ("amplified",), UDP_ECHO, share=0.5),
)
