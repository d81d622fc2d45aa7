"""Sensors that only discover, and the one that launches.

A source's sensor adds partitions and reports settled arrivals on the source's asset; it launches nothing. The
automation sensor turns arrivals into backfills of `recording` (DESIGN section 8).
"""

from ursa_pipelines.orchestration.sensors.automation import automation_sensor
from ursa_pipelines.orchestration.sensors.nas import nas_sensor
from ursa_pipelines.orchestration.sensors.r2 import r2_sensor

__all__ = ["automation_sensor", "nas_sensor", "r2_sensor"]
