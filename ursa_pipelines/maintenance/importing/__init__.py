"""Bringing in the tables of another catalog: read, checked, planned, then written."""
