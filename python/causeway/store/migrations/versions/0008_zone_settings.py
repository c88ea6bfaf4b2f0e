"""Settings of zones: smart routing for all of their applications."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "zone_settings",
        sa.Column("zone_id", sa.String(32), sa.ForeignKey("zones.id"), primary_key=True),
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(32), nullable=False),
        sa.Column("modified_on", sa.String(32), nullable=False),
    )
