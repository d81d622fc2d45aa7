"""Rows about recordings: pointer, entries, conflict policies, reads."""
