"""The halt of reporting is kept in the ledger, and ended periods are read by pages."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("ledger", sa.Column("halted_reason", sa.Text(), nullable=True))
    op.add_column("ledger", sa.Column("halted_at", sa.BigInteger(), nullable=True))
    op.drop_index("periods_end", table_name="periods")
    op.create_index("periods_end", "periods", ["end", "account_id"])
