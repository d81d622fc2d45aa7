"""Ingest tests may send their requests through the proxy as well."""

from tests.faults.conftest import detour as detour
