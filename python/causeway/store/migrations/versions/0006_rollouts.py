"""Changes on their way to edges of other machines, and what those serve meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("began_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("sizes", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("edges", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("ended_unix_ms", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "rollout_holds",
        sa.Column("application", sa.String(32), primary_key=True),
        sa.Column("before", sa.Text, nullable=True),
        sa.Column("staged", sa.Text, nullable=True),
        sa.Column("rollout", sa.Integer, nullable=True),
        sa.Column("is_halted", sa.Integer, nullable=False),
        sa.Column("is_meant", sa.Integer, nullable=False),
    )
