"""Which ways flows take, as control tells an edge apart from snapshots: ranked paths, and what to measure. Pure.

They hold for a time. An edge that hears nothing more goes back to direct paths by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from causeway.model.paths import Paths

HOLD_S = 120  # without another word of control
DIRECT_ONE_IN = 64  # flows go direct whatever is best: so it stays known what that costs, and what a route is worth

_encode = msgspec.json.Encoder(order="sorted").encode


def encode_routes(
    version: int, routes: Mapping[str, Paths], legs: Iterable[str], reach: Iterable[str], hold_s: float = HOLD_S
) -> bytes:
    """`routes`: by application, the best path first. `legs`: edges to ask how far they are. `reach`: applications to
    whose origins the edge connects now and then, where no flow has shown it how far they are."""
    told = {
        "version": version,
        "ttl_ms": round(hold_s * 1000),
        "direct_one_in": DIRECT_ONE_IN,
        "legs": list(legs),
        "reach": list(reach),
        "applications": [{"id": id_, "paths": paths} for id_, paths in routes.items()],
    }
    return _encode(told)
