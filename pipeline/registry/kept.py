"""Whether what was registered is still in the registry, asked once for all steps."""

from pipeline.errors import TrackingError
from pipeline.registry.versions import registrations_of
from pipeline.runs.inputs import BUNDLE, MODEL
from pipeline.runs.record import RunFolder
from pipeline.tracking.options import Store

#: What a registration leaves in its run's folder.
REGISTRATION = "registration.json"


class Registry:
    """MLflow's registry, asked only if a registration might be kept.

    Args:
        store: where the pipeline registers; None: nowhere.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._known: dict[str, set[str]] = {}
        #: Why it could not be asked; registrations are then taken for what they were.
        self.unasked: str | None = None

    def problem_of(self, run: RunFolder) -> str | None:
        """What is wrong with a finished registration; None where it is there, and for any other run."""
        inputs = run.record.inputs or {}
        if self._store is None or MODEL not in inputs or self.unasked is not None:
            return None
        if self._store.sqlite_file is not None and not self._store.sqlite_file.exists():
            return f"{self._store.sqlite_file} is gone"
        try:
            names = self._names_of(inputs[BUNDLE])
        except TrackingError as error:
            self.unasked = error.problem
            return None
        return None if inputs[MODEL] in names else f"{inputs[MODEL]} has no version of this bundle any more"

    def _names_of(self, digest: str) -> set[str]:
        """The registered models of which a version is this bundle."""
        if digest not in self._known and self._store is not None:
            self._known[digest] = {found.name for found in registrations_of(self._store, digest)}
        return self._known[digest]
