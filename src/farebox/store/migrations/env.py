"""Alembic's environment. The store hands it an open connection; there is no ini file and no other way in."""

from alembic import context

from farebox.store.tables import metadata

__all__: list[str] = []

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
