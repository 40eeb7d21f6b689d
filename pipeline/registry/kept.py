"""Check that registered versions are still in the registry."""

from pipeline.errors import TrackingError
from pipeline.registry.versions import registrations_of
from pipeline.runs.inputs import BUNDLE, MODEL
from pipeline.runs.record import RunFolder
from pipeline.tracking.options import Store

#: The file that a registration writes to its run's folder.
REGISTRATION = "registration.json"


class Registry:
    """MLflow's registry, queried only if an earlier registration might be reused.

    Args:
        store: the store in which the pipeline registers models, if any.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._known: dict[str, set[str]] = {}
        #: Why the registry could not be queried; recorded registrations are then trusted.
        self.unasked: str | None = None

    def problem_of(self, run: RunFolder) -> str | None:
        """Describe what is wrong with a finished registration; None if it is intact, and for other runs."""
        inputs = run.record.inputs or {}
        if self._store is None or MODEL not in inputs or self.unasked is not None:
            return None
        if self._store.sqlite_file is not None and not self._store.sqlite_file.exists():
            return f"{self._store.sqlite_file} no longer exists"
        try:
            names = self._names_of(inputs[BUNDLE])
        except TrackingError as error:
            self.unasked = error.problem
            return None
        return None if inputs[MODEL] in names else f"{inputs[MODEL]} no longer has a version of this bundle"

    def _names_of(self, digest: str) -> set[str]:
        """Return the names of registered models that have this bundle as a version."""
        if digest not in self._known and self._store is not None:
            self._known[digest] = {found.name for found in registrations_of(self._store, digest)}
        return self._known[digest]
