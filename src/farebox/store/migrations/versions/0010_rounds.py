"""How far work has come that takes the accounts in turn."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "rounds",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("after", sa.String(64), nullable=False),
        sa.Column("turn_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
