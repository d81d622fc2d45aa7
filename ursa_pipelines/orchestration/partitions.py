"""One partition per recording; its key is the rec_id. Partitions are added, sorted, and never deleted by us."""

import dagster as dg

recordings = dg.DynamicPartitionsDefinition(name="recordings")

PARTITIONS_PER_REQUEST = 5_000
"""Some SQLite builds refuse one insert of more than about 36,000 keys (dagster issue 16260)."""
