"""What an ingest needs, looked at one thing after another. Nothing is written, and no look can hold up the others."""
