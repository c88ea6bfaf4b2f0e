"""The one door to the compiled engine."""

from __future__ import annotations

try:
    from causeway._core import Edge, NameServer, NativeError, carry_wan, die_with, flush, is_left, probe
except ImportError as error:  # pragma: no cover - a broken installation
    raise ImportError(
        f"the engine of causeway is not built for this Python ({error}): "
        "run make setup in a checkout, or install a wheel"
    ) from error

__all__ = ["Edge", "NameServer", "NativeError", "carry_wan", "die_with", "flush", "is_left", "probe"]
