"""What plans have beside prices by the meter: a base fee, a change to come, and which of them a period was sold by."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("base", sa.String(64), nullable=True))
    op.add_column("subscriptions", sa.Column("next_plan", sa.String(64), server_default="", nullable=False))
    op.add_column("periods", sa.Column("plan", sa.String(64), server_default="", nullable=False))
    op.add_column("periods", sa.Column("base", sa.String(64), nullable=True))
