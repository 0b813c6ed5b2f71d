"""The one set of all tables, by which migrations and tests know them."""

from sqlalchemy import MetaData

__all__ = ["metadata"]

metadata = MetaData()
