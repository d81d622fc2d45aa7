"""The index: Delta Lake tables folded from the entries, and reads that join them with what is newer."""
