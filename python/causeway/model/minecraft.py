"""How an edge speaks for a Minecraft server: its status from memory, and joins in turn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Minecraft:
    """0 switches a part off."""

    status_cache_s: float = 0.0  # for how long a status is shown before the server is asked again
    joins_per_s: int = 0  # of all clients; who has played here before never waits
    challenge: bool = True  # who has asked for the status, as players do, joins before strangers
