"""What is asked of a link, in the units of people. Pure; the relay knows microseconds and bits a second.

One spelling for `world.toml`, `causeway lab link` and `Lab.link`.
"""

from __future__ import annotations

import msgspec

from causeway.lab.problem import LabError

_LONGEST_MS = 60_000


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One direction, or a change of it: None is left as it is."""

    delay_ms: float | None = None
    jitter_ms: float | None = None
    loss: float | None = None
    duplicate: float | None = None
    reorder: float | None = None
    reorder_ms: float | None = None
    rate_mbit: float | None = None
    queue_kb: float | None = None
    mtu: int | None = None
    mtu_silent: bool | None = None

    def over(self, base: Shape) -> Shape:
        """All of this, and what it leaves open as in `base`."""
        mine = {name: getattr(self, name) for name in Shape.__struct_fields__}
        return Shape(**{name: getattr(base, name) if value is None else value for name, value in mine.items()})

    def told(self) -> dict[str, int | float | bool]:
        """As the relay reads it; refuses what is out of bounds.

        Raises:
            LabError: a value that no link can have, by name.
        """
        answer: dict[str, int | float | bool] = {}
        for name, theirs, factor, least, most in _NUMBERS:
            value = getattr(self, name)
            if value is None:
                continue
            if not (least <= value <= most or (value == 0 and name in _NONE_IS_ZERO)):
                zero = "0 (none) or " if name in _NONE_IS_ZERO else ""
                raise LabError("lab_link_value", f"{name} is {value:g}: {zero}{least:g} to {most:g}")
            answer[theirs] = value if name in _SHARES else round(value * factor)
        if self.mtu_silent is not None:
            answer["is_mtu_silent"] = self.mtu_silent
        return answer


_SHARES = ("loss", "duplicate", "reorder")
_NONE_IS_ZERO = ("rate_mbit", "mtu")
_NUMBERS: tuple[tuple[str, str, float, float, float], ...] = (  # ours, the relay's, its units, least, most
    ("delay_ms", "delay_us", 1000, 0, _LONGEST_MS),
    ("jitter_ms", "jitter_us", 1000, 0, _LONGEST_MS),
    ("loss", "loss", 1, 0, 1),
    ("duplicate", "duplicate", 1, 0, 1),
    ("reorder", "reorder", 1, 0, 1),
    ("reorder_ms", "reorder_us", 1000, 0, _LONGEST_MS),
    ("rate_mbit", "rate_bps", 1e6, 0.001, 1_000_000),
    ("queue_kb", "queue_bytes", 1024, 1.5, 65_536),
    ("mtu", "mtu", 1, 576, 65_535),
)
