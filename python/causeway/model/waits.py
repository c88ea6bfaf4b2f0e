"""How long clients waited for a first byte, in buckets as edges count them. Pure.

Bucket 0 ends at 128 us; each doubling from there has eight buckets of the same width; the last one has no end. So what
is read of them is right to within an eighth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

BUCKETS = 1 + 20 * 8 + 1  # of `crates/causeway-edge/src/gains.rs`, as all of this


@dataclass(frozen=True, slots=True)
class Waits:
    """`counts` by bucket, of flows; `total_us` of all of them."""

    total_us: int = 0
    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def mean_ms(self) -> float | None:
        return self.total_us / self.count / 1000 if self.counts else None

    def quantile_ms(self, share: float) -> float | None:
        """Of the bucket in which it is, as far in as its rank; none where nobody waited."""
        rank, before = share * self.count, 0
        for bucket in sorted(self.counts):
            count = self.counts[bucket]
            if before + count >= rank:
                least_ms, most_ms = bounds_ms(bucket)
                return least_ms if most_ms == inf else least_ms + (most_ms - least_ms) * (rank - before) / count
            before += count
        return None

    def since(self, before: Waits) -> Waits | None:
        """What came after; none: it was counted anew in between."""
        if any(count > self.counts.get(bucket, 0) for bucket, count in before.counts.items()):
            return None
        counts = {bucket: count - before.counts.get(bucket, 0) for bucket, count in self.counts.items()}
        return Waits(self.total_us - before.total_us, {bucket: count for bucket, count in counts.items() if count})


def joined(several: Iterable[Waits]) -> Waits:
    total_us, counts = 0, dict[int, int]()
    for one in several:
        total_us += one.total_us
        for bucket, count in one.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
    return Waits(total_us, counts)


def bounds_ms(bucket: int) -> tuple[float, float]:
    """Where a bucket begins and ends."""
    return (_end_ms(bucket - 1) if bucket else 0.0), (inf if bucket >= BUCKETS - 1 else _end_ms(bucket))


def _end_ms(bucket: int) -> float:
    octave, sub = divmod(bucket, 8)
    return (16 * (8 + sub) << octave) / 1000
