"""Many processes on one ledger: leases, presence, periods, corrections, late usage, differences and the audit log."""

import sqlalchemy as sa
from alembic import op

__all__: list[str] = []

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("held_until", sa.BigInteger(), nullable=True))
    op.add_column("meter_events", sa.Column("kind", sa.String(16), server_default="usage", nullable=False))
    op.add_column("meter_events", sa.Column("transport", sa.String(16), server_default="", nullable=False))
    op.add_column("meter_events", sa.Column("zero_read_at", sa.BigInteger(), nullable=True))
    _reports()
    _processes()
    _periods()
    _corrections()
    _knowledge()


def _reports() -> None:
    """Indexes for taking, settling and finding meter events by what they wait for."""
    op.drop_index("meter_events_open", "meter_events")
    turn = ["customer_id", "event_name", "next_attempt_at", "bucket_start", "sequence"]
    for name, columns, where in (
        ("meter_events_turn", turn, "state IN ('pending', 'sending')"),
        ("meter_events_parked", ["state"], "state IN ('rejected', 'doubtful')"),
        (
            "meter_events_unproven",
            ["customer_id", "event_name", "timestamp"],
            "state = 'sending' OR (state = 'pending' AND first_unknown_at IS NOT NULL)",
        ),
        ("meter_events_streamed", ["idempotency_key"], "transport = 'stream'"),
    ):
        op.create_index(name, "meter_events", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _processes() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_end", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged", sa.BigInteger(), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
    )


def _periods() -> None:
    op.create_table(
        "periods",
        sa.Column("account_id", sa.String(64), sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("subscription_id", sa.String(128), primary_key=True),
        sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.String(128), nullable=True),
        sa.Column("finalized_at", sa.BigInteger(), nullable=True),
        sa.Column("billed", sa.Text(), nullable=True),
    )
    op.create_index("periods_end", "periods", ["end"])


def _corrections() -> None:
    op.create_table(
        "adjustments",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(64), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("meter", sa.String(64), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("identifier", sa.String(100), nullable=True),
    )
    op.create_index("adjustments_account", "adjustments", ["account_id", "meter", "used_at"])
    op.create_table(
        "late_items",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(64), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("meter", sa.String(64), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("invoice_item_id", sa.String(128), nullable=True),
    )
    op.create_index("late_items_account", "late_items", ["account_id", "meter", "period_start"])


def _knowledge() -> None:
    op.create_table(
        "differences",
        sa.Column("account_id", sa.String(64), sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("meter", sa.String(64), primary_key=True),
        sa.Column("period_start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("since_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_index("audit_at", "audit", ["at"])
