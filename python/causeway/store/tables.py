"""The tables as they are after the newest migration. What a row means is in `rows`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("created_on", String(32), nullable=False),
)
zones = Table(
    "zones",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", String(253), nullable=False, unique=True),
    Column("created_on", String(32), nullable=False),
    Column("modified_on", String(32), nullable=False),
)
# What is set for a zone as a whole, such as smart_routing: on or off.
zone_settings = Table(
    "zone_settings",
    metadata,
    Column("zone_id", ForeignKey("zones.id"), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("value", String(32), nullable=False),
    Column("modified_on", String(32), nullable=False),
)
applications = Table(
    "applications",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("zone_id", ForeignKey("zones.id"), nullable=False, index=True),
    Column("dns", String(253), nullable=False),
    Column("protocol", String(32), nullable=False),
    Column("created_on", String(32), nullable=False),
    Column("modified_on", String(32), nullable=False),
    Column("body", Text, nullable=False),
)
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("scope", String(8), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created_on", String(32), nullable=False),
)
# Numbers that only grow.
sequences = Table(
    "sequences",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Integer, nullable=False),
)
# Requests that have been served, for callers who ask again: by their key, what was asked and what came of it.
repeats = Table(
    "repeats",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("asked", String(64), nullable=False),
    Column("made", String(32), nullable=False),
    Column("created_on", String(32), nullable=False),
)
# IP Access Rules of zones and accounts; `value` in its one spelling, so that nothing is there twice.
access_rules = Table(
    "access_rules",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("level", String(16), nullable=False),
    Column("owner_id", String(32), nullable=False),
    Column("target", String(16), nullable=False),
    Column("value", String(64), nullable=False),
    Column("mode", String(24), nullable=False),
    Column("notes", Text, nullable=False),
    Column("drop_established", Integer, nullable=False),
    Column("created_on", String(32), nullable=False),
    Column("modified_on", String(32), nullable=False),
    # Which flows it is about, and until when: empty text says all, and for ever.
    Column("application", String(32), nullable=False),
    Column("ports", String(16), nullable=False),
    Column("dry_run", Integer, nullable=False),
    Column("expires_on", String(32), nullable=False),
    UniqueConstraint("level", "owner_id", "target", "value", "application", "ports", "dry_run"),
)
# Prefixes that rules name, and what is read of AS numbers and countries; the content is under its digest.
firewall_lists = Table(
    "firewall_lists",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("ipv4", Integer, nullable=False),
    Column("ipv6", Integer, nullable=False),
    Column("created_on", String(32), nullable=False),
    Column("modified_on", String(32), nullable=False),
)
firewall_databases = Table(
    "firewall_databases",
    metadata,
    Column("target", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("prefixes", Integer, nullable=False),
    Column("keys", Integer, nullable=False),
    Column("modified_on", String(32), nullable=False),
)
firewall_contents = Table(
    "firewall_contents",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("content", LargeBinary, nullable=False),
)
# What is on or off for the whole installation; what is not here is as it is by default.
switches = Table(
    "switches",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("is_on", Integer, nullable=False),
)
# Edges of other machines of which anything is said; the others are not drained.
edge_invitations = Table(
    "edge_invitations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(32), nullable=False),
    Column("expires_unix_s", Integer, nullable=False),
    Column("used_by", String(64), nullable=True),
)
edge_certificates = Table(
    "edge_certificates",
    metadata,
    Column("serial", String(64), primary_key=True),
    Column("name", String(32), nullable=False, index=True),
    Column("public_key", String(64), nullable=False),
    Column("expires_unix_s", Integer, nullable=False),
    Column("revoked_unix_s", Integer, nullable=True),
)
edges = Table(
    "edges",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("is_drained", Integer, nullable=False),
)
# Attacks that edges have told of; no end: it goes on. `body` is all that is known of it.
attacks = Table(
    "attacks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("application", String(32), nullable=False, index=True),
    Column("started_unix_ms", BigInteger, nullable=False, index=True),
    Column("ended_unix_ms", BigInteger, nullable=True),
    Column("seen_unix_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)
# Changes on their way to edges of other machines, and what those serve instead of what is stored. Times in ms.
rollouts = Table(
    "rollouts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("changes", Text, nullable=False),
    Column("began_unix_ms", BigInteger, nullable=False),
    Column("sizes", Text, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("edges", Text, nullable=False),
    Column("reason", Text, nullable=True),
    Column("ended_unix_ms", BigInteger, nullable=True),
)
rollout_holds = Table(
    "rollout_holds",
    metadata,
    Column("application", String(32), primary_key=True),
    Column("before", Text, nullable=True),
    Column("staged", Text, nullable=True),
    Column("rollout", Integer, nullable=True),
    Column("is_halted", Integer, nullable=False),
    Column("is_meant", Integer, nullable=False),
)
# Which of several control nodes writes: one row. `writes` counts transactions.
control_lease = Table(
    "control_lease",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("url", String(255), nullable=False),
    Column("expires_unix_s", Double, nullable=False),
    Column("writes", BigInteger, nullable=False),
    Column("network", String(64), nullable=False),
)
control_nodes = Table(
    "control_nodes",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("url", String(255), nullable=False),
    Column("seen_unix_s", Double, nullable=False),
    Column("is_connected", Integer, nullable=False),
    Column("software", String(32), nullable=False),
)
