"""Late items from their row to a final invoice: where each stands, and when it is looked at again."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0005"
down_revision = "0004"

_COLUMNS = (
    sa.Column("subscription_id", sa.String(128), server_default="", nullable=False),
    sa.Column("state", sa.String(16), server_default="new", nullable=False),
    sa.Column("state_since_at", sa.BigInteger, server_default="0", nullable=False),
    sa.Column("attached_id", sa.String(128), nullable=True),
    sa.Column("invoice_id", sa.String(128), nullable=True),
    sa.Column("next_look_at", sa.BigInteger, server_default="0", nullable=False),
    sa.Column("lease_end", sa.BigInteger, server_default="0", nullable=False),
    sa.Column("failures", sa.Integer, server_default="0", nullable=False),
    sa.Column("error", sa.Text, server_default="", nullable=False),
    sa.Column("item_key_number", sa.Integer, server_default="0", nullable=False),
    sa.Column("invoice_key_number", sa.Integer, server_default="0", nullable=False),
)


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("late_items", column)
    # What was sent is looked at again: it is billed once it stands on a final invoice.
    op.execute("UPDATE late_items SET state = 'free', next_look_at = 1099511627776 WHERE invoice_item_id = ''")
    op.execute("UPDATE late_items SET state = 'pending' WHERE invoice_item_id <> ''")
    op.execute("UPDATE late_items SET state_since_at = created_at")
    op.execute(
        "UPDATE late_items SET subscription_id = COALESCE((SELECT MIN(p.subscription_id) FROM periods p "
        "WHERE p.account_id = late_items.account_id AND p.start = late_items.period_start), '')"
    )
    where = sa.text("state NOT IN ('paid', 'free')")
    op.create_index("late_items_open", "late_items", ["next_look_at"], sqlite_where=where, postgresql_where=where)
