"""The ledger's tables. Times are Unix seconds, quantities whole numbers; nothing here is specific to one database."""

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
    UniqueConstraint,
    false,
    text,
)

from farebox.store.metadata import metadata
from farebox.store.tables_of_work import (
    audit,
    differences,
    events,
    inbox,
    leases,
    lost_spans,
    processes,
    rounds,
)

__all__ = [
    "IS_DIRTY",
    "IS_OPEN",
    "IS_PARKED",
    "IS_STREAMED",
    "IS_UNPROVEN",
    "accounts",
    "adjustments",
    "api_keys",
    "audit",
    "checkouts",
    "differences",
    "events",
    "feed",
    "feed_head",
    "former_ledgers",
    "inbox",
    "late_items",
    "leases",
    "ledger",
    "lost_spans",
    "metadata",
    "meter_events",
    "periods",
    "processes",
    "recorded",
    "rounds",
    "subscriptions",
    "usage",
    "writers",
]


ledger = Table(
    "ledger",
    metadata,
    Column("one", Integer, primary_key=True),  # always 1: a ledger is one
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("provider_account", String(64)),
    Column("livemode", Boolean),
    Column("halted_reason", Text),  # why no process reports anything any more, until a person clears it (L6)
    Column("halted_at", BigInteger),
)

former_ledgers = Table(  # ids that this ledger had before it was restored: outage spools may bear them
    "former_ledgers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("renewed_at", BigInteger, nullable=False),
)

feed_head = Table(
    "feed_head",
    metadata,
    Column("one", Integer, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("epoch", String(64), nullable=False),
)

feed = Table(
    "feed",
    metadata,
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("account_id", String(64), nullable=False),
)

writers = Table(
    "writers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("batch", BigInteger, nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("state", String(16), nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("meter", String(64), primary_key=True),
    Column("bucket_start", BigInteger, primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("operation", String(256), primary_key=True),
    Column("writer", String(64), primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("last_used_at", BigInteger, nullable=False),
    # A hint for the sealer, set by each increment in the same row write. The truth is the difference (L5).
    Column("dirty", Boolean, nullable=False),
    sqlite_with_rowid=False,  # the key is most of the row: kept once, in the order in which it is asked for
)
Index(
    "usage_dirty",
    usage.c.account_id,
    usage.c.meter,
    usage.c.bucket_start,
    sqlite_where=usage.c.dirty,
    postgresql_where=usage.c.dirty,
)

recorded = Table(
    "recorded",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("record_id", String(256), primary_key=True),
    Column("meter", String(64), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("mark", String(64), nullable=False, server_default=""),  # of the request that was the first to record it
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("email", String(320), nullable=False),
    Column("reference", String(256), nullable=False),
    Column("customer_id", String(128), unique=True),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("applied_fence", BigInteger, nullable=False, server_default="0"),
    Column("held_until", BigInteger),  # paid calls wait until then: usage is being settled (L12)
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("pepper_id", String(32), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("last_four", String(4), nullable=False),
    Column("name", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("customer_id", String(128), nullable=False),
    Column("plan", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status_since_at", BigInteger, nullable=False),
    Column("cancel_at_period_end", Boolean, nullable=False),
    Column("collection_paused", Boolean, nullable=False),
    Column("items", Text, nullable=False),  # JSON, written and read only here
    Column("base", String(64)),  # exact, in minor units
    Column("next_plan", String(64), nullable=False, server_default=""),
    Column("ended_at", BigInteger),  # this and the next two: the provider's own times
    Column("cancel_at", BigInteger),
    Column("trial_end", BigInteger),
)

checkouts = Table(
    "checkouts",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("plan", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("claimed_at", BigInteger),
    Column("key_id", String(64)),
)

meter_events = Table(
    "meter_events",
    metadata,
    Column("identifier", String(100), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("customer_id", String(128), nullable=False),
    Column("meter", String(64), nullable=False),
    Column("event_name", String(100), nullable=False),
    Column("bucket_start", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("idempotency_key", String(255), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_unknown_at", BigInteger),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Column("reason", Text, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("lease_end", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False, server_default="usage"),  # usage, adjustment, restored, void
    Column("transport", String(16), nullable=False, server_default=""),  # kept once a send may have got through (L8)
    Column("zero_read_at", BigInteger),  # when a doubtful event's cell was first read as zero (L9)
    UniqueConstraint("account_id", "meter", "bucket_start", "sequence"),
)
Index("meter_events_created", meter_events.c.created_at)
Index("meter_events_cell", meter_events.c.customer_id, meter_events.c.timestamp)
_open = meter_events.c.state.in_(("pending", "sending"))
Index(
    "meter_events_turn",
    meter_events.c.customer_id,
    meter_events.c.event_name,
    meter_events.c.next_attempt_at,
    meter_events.c.bucket_start,
    meter_events.c.sequence,
    sqlite_where=_open,
    postgresql_where=_open,
)
_parked = meter_events.c.state.in_(("rejected", "doubtful"))
Index("meter_events_parked", meter_events.c.state, sqlite_where=_parked, postgresql_where=_parked)
_unproven = text("state = 'sending' OR (state = 'pending' AND first_unknown_at IS NOT NULL)")
Index(
    "meter_events_unproven",
    meter_events.c.customer_id,
    meter_events.c.event_name,
    meter_events.c.timestamp,
    sqlite_where=_unproven,
    postgresql_where=_unproven,
)
_streamed = text("transport = 'stream'")
Index("meter_events_streamed", meter_events.c.idempotency_key, sqlite_where=_streamed, postgresql_where=_streamed)

periods = Table(
    "periods",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("subscription_id", String(128), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("end", BigInteger, nullable=False),
    Column("items", Text, nullable=False),  # JSON: meters, prices and amounts as they were in the period
    Column("invoice_id", String(128)),
    Column("finalized_at", BigInteger),
    Column("billed", Text),  # JSON by meter: quantity, amount, and the amount that our rating makes of it
    Column("plan", String(64), nullable=False, server_default=""),
    Column("base", String(64)),
    Column("trial", Boolean, nullable=False, server_default=false()),
    Column("next_look_at", BigInteger),  # when to look for its invoices; None: no more
)
Index("periods_end", periods.c.end, periods.c.account_id)
Index(
    "periods_look",
    periods.c.next_look_at,
    sqlite_where=periods.c.next_look_at.is_not(None),
    postgresql_where=periods.c.next_look_at.is_not(None),
)

adjustments = Table(
    "adjustments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("meter", String(64), nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("quantity", BigInteger, nullable=False),  # signed
    Column("reason", Text, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("identifier", String(100)),  # of its own meter event
)
Index("adjustments_account", adjustments.c.account_id, adjustments.c.meter, adjustments.c.used_at)

late_items = Table(
    "late_items",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("meter", String(64), nullable=False),
    Column("period_start", BigInteger, nullable=False),
    Column("period_end", BigInteger, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", String(8), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("invoice_item_id", String(128)),
    Column("subscription_id", String(128), nullable=False, server_default=""),
    Column("state", String(16), nullable=False, server_default="new"),
    Column("state_since_at", BigInteger, nullable=False, server_default="0"),
    Column("attached_id", String(128)),
    Column("invoice_id", String(128)),
    Column("next_look_at", BigInteger, nullable=False, server_default="0"),
    Column("lease_end", BigInteger, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("error", Text, nullable=False, server_default=""),
    Column("item_key_number", Integer, nullable=False, server_default="0"),
    Column("invoice_key_number", Integer, nullable=False, server_default="0"),
)
Index("late_items_account", late_items.c.account_id, late_items.c.meter, late_items.c.period_start)
_unsettled_item = text("state NOT IN ('paid', 'free')")
Index("late_items_open", late_items.c.next_look_at, sqlite_where=_unsettled_item, postgresql_where=_unsettled_item)

# Conditions as the partial indexes have them, word by word: a bound value or `= 1` would not let a database use them.
IS_DIRTY = text("usage.dirty")
IS_OPEN = text("meter_events.state IN ('pending', 'sending')")
IS_PARKED = text("meter_events.state IN ('rejected', 'doubtful')")
IS_UNPROVEN = text(
    "(meter_events.state = 'sending' OR (meter_events.state = 'pending' AND meter_events.first_unknown_at IS NOT NULL))"
)
IS_STREAMED = text("meter_events.transport = 'stream'")
IS_UNSETTLED_ITEM = text("late_items.state NOT IN ('paid', 'free')")
