"""The `ursa` command."""
