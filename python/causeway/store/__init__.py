"""Durable state: SQLite by default. The only SQL of causeway."""
