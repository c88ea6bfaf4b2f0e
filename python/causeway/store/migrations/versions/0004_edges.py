"""What is said of edges of other machines."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "edges",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("is_drained", sa.Integer, nullable=False),
    )
