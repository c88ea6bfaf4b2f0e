"""Limits of an application: how much all clients together, or those of one source or AS number, may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Of(StrEnum):
    APPLICATION = "application"
    SOURCE = "source"
    ASN = "asn"  # all clients of an AS number together; of one that is not known there is no limit


@dataclass(frozen=True, slots=True)
class Limit:
    """A source is the first `ipv4_prefix` or `ipv6_prefix` bits of an address. 0 is no limit, and no ban.

    `open` are connections (TCP) or sessions (UDP), `new_per_s` those that begin in a second.
    `bytes_per_s` are payload: of TCP in both directions, of UDP what clients send.
    """

    of: Of
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    open: int = 0
    new_per_s: int = 0
    datagrams_per_s: int = 0
    bytes_per_s: int = 0
    ban_s: float = 0.0
