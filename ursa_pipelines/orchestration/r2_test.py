"""The code location of the profile `r2-test`."""

from ursa_pipelines.orchestration.definitions import build_definitions

defs = build_definitions("r2-test")
