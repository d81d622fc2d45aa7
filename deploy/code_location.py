"""/etc/ursa/code_location.py on every host: what the central code server serves, and what workers load."""

from pathlib import Path

from ursa_pipelines.orchestration.definitions import build_definitions

defs = build_definitions("r2", Path("/etc/ursa/profile.yaml"))
