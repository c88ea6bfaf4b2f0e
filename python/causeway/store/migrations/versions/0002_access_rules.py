"""IP Access Rules."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "access_rules",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("owner_id", sa.String(32), nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("value", sa.String(64), nullable=False),
        sa.Column("mode", sa.String(24), nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("drop_established", sa.Integer, nullable=False),
        sa.Column("created_on", sa.String(32), nullable=False),
        sa.Column("modified_on", sa.String(32), nullable=False),
        sa.UniqueConstraint("level", "owner_id", "target", "value"),
    )
