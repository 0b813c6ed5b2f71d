"""What the ledger could not do."""

from farebox.errors.root import FareboxError

__all__ = [
    "FactsStale",
    "StoreBusy",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "WriterFenced",
]


class StoreError(FareboxError):
    code = "store_error"
    status = 503
    title = "Usage cannot be recorded right now"


class StoreUnavailable(StoreError):
    code = "store_unavailable"


class StoreUnusable(StoreError):
    code = "store_unusable"
    title = "The database cannot be used"


class StoreBusy(StoreError):
    code = "store_busy"
    title = "Another process has this folder"


class FactsStale(StoreError):
    code = "facts_stale"
    title = "Access cannot be checked right now"


class WriterFenced(StoreError):
    code = "writer_fenced"
