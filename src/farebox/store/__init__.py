"""The ledger's adapters: one SQLAlchemy Core implementation, and a plain twin in memory."""

__all__: list[str] = []
