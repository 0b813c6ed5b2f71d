"""The ids that a ledger had before it was restored, so that outage spools which bear them are brought in."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "former_ledgers",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("renewed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
