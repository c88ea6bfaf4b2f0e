"""Control nodes: which there are, and which of them writes."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lease = op.create_table(
        "control_lease",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("url", sa.String(255), nullable=False),
        sa.Column("expires_unix_s", sa.Double, nullable=False),
        sa.Column("writes", sa.BigInteger, nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
    )
    free = {"id": 1, "token": 0, "holder": "", "url": "", "expires_unix_s": 0.0, "writes": 0, "network": ""}
    op.bulk_insert(lease, [free])
    op.create_table(
        "control_nodes",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("url", sa.String(255), nullable=False),
        sa.Column("seen_unix_s", sa.Double, nullable=False),
        sa.Column("is_connected", sa.Integer, nullable=False),
        sa.Column("software", sa.String(32), nullable=False),
    )
