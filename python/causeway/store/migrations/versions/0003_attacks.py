"""Attacks, and switches of the whole installation."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "switches",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("is_on", sa.Integer, nullable=False),
    )
    op.create_table(
        "attacks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("application", sa.String(32), nullable=False, index=True),
        sa.Column("started_unix_ms", sa.BigInteger, nullable=False, index=True),
        sa.Column("ended_unix_ms", sa.BigInteger, nullable=True),
        sa.Column("seen_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
