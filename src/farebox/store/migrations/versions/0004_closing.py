"""When a period's invoices are looked for, whether it was a trial, and when subscriptions end by Stripe's clock."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0004"
down_revision = "0003"
_FINAL_AFTER_SECONDS = 2 * 3_600


def upgrade() -> None:
    for name in ("ended_at", "cancel_at", "trial_end"):
        op.add_column("subscriptions", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("periods", sa.Column("trial", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("periods", sa.Column("next_look_at", sa.BigInteger(), nullable=True))
    periods = sa.table("periods", sa.column("end"), sa.column("finalized_at"), sa.column("next_look_at"))
    look = sa.update(periods).where(periods.c.finalized_at.is_(None))
    op.execute(look.values(next_look_at=periods.c.end + _FINAL_AFTER_SECONDS))
    is_due = sa.text("next_look_at IS NOT NULL")
    op.create_index("periods_look", "periods", ["next_look_at"], sqlite_where=is_due, postgresql_where=is_due)
