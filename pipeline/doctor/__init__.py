"""Check for leftovers of killed processes, damaged files, disk space, versions and hardware."""

from pipeline.doctor.bundles import damaged_bundles, damaged_rows
from pipeline.doctor.dead_runs import dead_runs, open_in_mlflow, unsynced
from pipeline.doctor.disk import Use, disk_problems, disk_use
from pipeline.doctor.findings import Finding
from pipeline.doctor.leftovers import leftovers
from pipeline.doctor.machine import Fact, hardware, version_problems, versions

__all__ = [
    "Fact",
    "Finding",
    "Use",
    "damaged_bundles",
    "damaged_rows",
    "dead_runs",
    "disk_problems",
    "disk_use",
    "hardware",
    "leftovers",
    "open_in_mlflow",
    "unsynced",
    "version_problems",
    "versions",
]
