"""The tables of work that processes share: webhooks, leases, rounds, what differs, who did what. See `tables`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from farebox.store.metadata import metadata

__all__ = [
    "audit",
    "differences",
    "events",
    "inbox",
    "leases",
    "lost_spans",
    "processes",
    "rounds",
]

lost_spans = Table(
    "lost_spans",
    metadata,
    # What was recorded in [start, end] is not known since a restore; both seconds are in it.
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("end", BigInteger, nullable=False),
    Column("found_at", BigInteger, nullable=False),
    Column("lifted_at", BigInteger),
)

events = Table(
    "events",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("type", String(128), nullable=False),
    Column("object_id", String(128), nullable=False),
    Column("customer_id", String(128)),
    Column("created_at", BigInteger, nullable=False),
    Column("livemode", Boolean, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("work", String(128), nullable=False),  # what must be looked at again: the customer, or the event itself
    Column("done_at", BigInteger),
)

Index(
    "events_waiting",
    events.c.work,
    sqlite_where=events.c.done_at.is_(None),
    postgresql_where=events.c.done_at.is_(None),
)

inbox = Table(
    "inbox",
    metadata,
    Column("work", String(128), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("lease_end", BigInteger, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
)

Index("inbox_due", inbox.c.next_attempt_at)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_end", BigInteger, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("after", String(64), nullable=False),  # the last account done; empty before the first
    Column("turn_at", BigInteger, nullable=False),
)

processes = Table(
    "processes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),  # the feed's position up to which its calls are committed
    Column("beats", BigInteger, nullable=False),
)

differences = Table(
    "differences",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("meter", String(64), primary_key=True),
    Column("period_start", BigInteger, primary_key=True, autoincrement=False),
    Column("since_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("detail", Text, nullable=False),  # JSON
)

Index("audit_at", audit.c.at)
