"""Rows about recordings: pointer, entries, conflict policies, tables, reads."""
