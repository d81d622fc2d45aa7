"""/etc/ursa/site_code_location.py on a host of the site lab1: the sensors of the sources that are mounted there."""

from pathlib import Path

from ursa_pipelines.orchestration.definitions import build_site_definitions

defs = build_site_definitions("r2", Path("/etc/ursa/profile.yaml"), "lab1")
