"""The code location of the profile `local`."""

from ursa_pipelines.orchestration.definitions import build_definitions

defs = build_definitions("local")
