"""Schema history, applied in order by Alembic."""

__all__: list[str] = []
