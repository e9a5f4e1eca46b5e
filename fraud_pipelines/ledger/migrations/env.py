"""Alembic's entry: runs on the connection that Ledger.migrate() hands over."""

from alembic import context

from fraud_pipelines.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
