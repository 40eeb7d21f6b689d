"""The sweep that a run is a trial of, which its configuration has as a tag."""

from collections.abc import Mapping

from pipeline.config.plain import Config, select

#: The tag that names the sweep of a trial.
SWEEP_TAG = "sweep_id"


def sweep_of(config: Config) -> str | None:
    """Return the id of the sweep that the run is a trial of, or None."""
    tags: Mapping[str, str] = select(config, "tracking.tags") or {}
    return tags.get(SWEEP_TAG)
