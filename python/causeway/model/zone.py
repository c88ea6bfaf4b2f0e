"""Accounts, zones and tokens: who owns what, and who may ask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str
    created_on: datetime


@dataclass(frozen=True, slots=True)
class Zone:
    id: str
    account_id: str
    name: str
    created_on: datetime
    modified_on: datetime


@dataclass(frozen=True, slots=True)
class Setting:
    """Of a zone; `modified_on`: none where it was never set."""

    is_on: bool = False
    modified_on: datetime | None = None


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; its value is known to its owner alone."""

    id: str
    name: str
    scope: Scope
    created_on: datetime
