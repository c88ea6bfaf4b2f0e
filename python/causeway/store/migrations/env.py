"""Run migrations on the connection that `database` hands over; there is no other way in."""

from alembic import context

from causeway.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
