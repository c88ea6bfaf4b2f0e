"""Who was invited to be an edge, and who was certified as one."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "edge_invitations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("expires_unix_s", sa.Integer, nullable=False),
        sa.Column("used_by", sa.String(64), nullable=True),
    )
    op.create_table(
        "edge_certificates",
        sa.Column("serial", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("expires_unix_s", sa.Integer, nullable=False),
        sa.Column("revoked_unix_s", sa.Integer, nullable=True),
    )
    op.create_index("ix_edge_certificates_name", "edge_certificates", ["name"])
