"""Accounts, zones, applications, tokens, sequences and repeats."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_on", sa.String(32), nullable=False),
    )
    op.create_table(
        "zones",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("account_id", sa.String(32), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("name", sa.String(253), nullable=False, unique=True),
        sa.Column("created_on", sa.String(32), nullable=False),
        sa.Column("modified_on", sa.String(32), nullable=False),
    )
    op.create_table(
        "applications",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("zone_id", sa.String(32), sa.ForeignKey("zones.id"), nullable=False, index=True),
        sa.Column("dns", sa.String(253), nullable=False),
        sa.Column("protocol", sa.String(32), nullable=False),
        sa.Column("created_on", sa.String(32), nullable=False),
        sa.Column("modified_on", sa.String(32), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created_on", sa.String(32), nullable=False),
    )
    op.create_table(
        "sequences",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
    )
    op.create_table(
        "repeats",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("made", sa.String(32), nullable=False),
        sa.Column("created_on", sa.String(32), nullable=False),
    )
