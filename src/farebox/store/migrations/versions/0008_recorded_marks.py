"""Who was the first to record an id, and which time's ids a restore lost."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("recorded", sa.Column("mark", sa.String(64), server_default="", nullable=False))
    op.create_table(
        "lost_spans",
        sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("found_at", sa.BigInteger(), nullable=False),
        sa.Column("lifted_at", sa.BigInteger(), nullable=True),
    )
