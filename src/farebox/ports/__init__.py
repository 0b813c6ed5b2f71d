"""The ports of the house: Store, Provider, Clock, Entropy, the outage spool. Protocols, and values that only they know.

All calls are synchronous and thread-safe; the edge and the loops put them on threads. Times are Unix seconds, UTC.
"""

from farebox.ports.accounts import AccountStore
from farebox.ports.away import is_away
from farebox.ports.presence import PresenceStore, ProcessRow
from farebox.ports.provider import (
    BillingTerms,
    CheckoutSession,
    Endpoint,
    Invoice,
    Offer,
    PortalState,
    Provider,
    ProviderAccount,
    StoredMeter,
    StoredPrice,
    StoredProduct,
)
from farebox.ports.reconciling import PeriodEnd, ReconcilingStore
from farebox.ports.reports import ReportBacklog, ReportStore, ReportSummary
from farebox.ports.spool import Spool, SpooledBatch, SpoolFolder, SpoolSummary
from farebox.ports.store import Changes, Durability, Ledger, Store, WriterState
from farebox.ports.system import Clock, Entropy

__all__ = [
    "AccountStore",
    "BillingTerms",
    "Changes",
    "CheckoutSession",
    "Clock",
    "Durability",
    "Endpoint",
    "Entropy",
    "Invoice",
    "Ledger",
    "Offer",
    "PeriodEnd",
    "PortalState",
    "PresenceStore",
    "ProcessRow",
    "Provider",
    "ProviderAccount",
    "ReconcilingStore",
    "ReportBacklog",
    "ReportStore",
    "ReportSummary",
    "Spool",
    "SpoolFolder",
    "SpoolSummary",
    "SpooledBatch",
    "Store",
    "StoredMeter",
    "StoredPrice",
    "StoredProduct",
    "WriterState",
    "is_away",
]
