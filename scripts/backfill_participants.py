"""Gives recordings without a participant the name that participant.txt in the bucket has (runbook, Path C).

The same as `ursa participants backfill`, with the same options; nothing is written without --commit.
"""

import sys

from ursa_pipelines.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["participants", "backfill"]
    main()
