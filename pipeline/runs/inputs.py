"""The inputs of a run, as text by name: the same inputs give the same results.

Every stage that writes files records its inputs in `run.json`. For each step, `make pipeline` looks for a
finished run with the same inputs, and `make why` compares the inputs with those of the newest run. They are:

    KEY.KEY         the resolved configuration, except keys that do not affect results or come from the bundle
    rows            the identity of the corpus
    bundle          the digest of the bundle that the stage reads
    code FILE       each source file that the stage runs (`pipeline.runs.code`)
    version NAME    the version of each library that affects results
"""

from collections.abc import Mapping
from pathlib import Path

from datamodules.cache import cache_key
from datamodules.source import Source
from pipeline.commands import STAGES
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.schema import BUNDLE_KEYS
from pipeline.runs import bundle
from pipeline.runs.code import code_of, targets_in, versions
from pipeline.runs.folders import NOT_IDENTITY
from pipeline.runs.stored import read_part
from pipeline.tracking.redaction import flatten

ROWS, BUNDLE, MODEL = "rows", "bundle", "registered model"

#: The key that names a bundle, whose digest counts instead, and the stage, which is recorded separately.
_NAMES = ("init_from", "stage")


def inputs_of(config: Config, *, used: Path | None = None) -> dict[str, str]:
    """Return the inputs of a run of the stage that `config` was composed for.

    Args:
        config: the composed configuration, before anything from a bundle is added.
        used: the bundle that the stage reads.

    Raises:
        DataError: if there is no such corpus.
        BundleError: if the bundle is not finished.
    """
    return {**cheap_inputs(config, used=used), **_rows(config)}


def cheap_inputs(config: Config, *, used: Path | None = None) -> dict[str, str]:
    """Return the inputs that are fast to compute: all but the identity of the corpus, which reads files."""
    plain = to_plain(config)
    roots = [STAGES[config.stage.name].partition(":")[0], *targets_in(plain)]
    without = {*NOT_IDENTITY, *_NAMES}
    found = {}
    if used is not None:
        bundle.read_done(used)
        found[BUNDLE] = bundle.digest(used)
        roots += [*targets_in(read_part(used, "model.json")), *targets_in(read_part(used, "task.json"))]
        without |= set(BUNDLE_KEYS)
    kept = {key: value for key, value in plain.items() if key not in without}
    return {**flatten(kept), **found, **code_of(roots), **versions()}


def inputs_of_registration(used: Path, *, model: str, alias: str, store: str) -> dict[str, str]:
    """Return the inputs of a registration, which runs no code on the bundle but depends on the store.

    Raises:
        BundleError: if the bundle is not finished.
    """
    bundle.read_done(used)
    return {MODEL: model, "alias": alias, "store": store, BUNDLE: bundle.digest(used)}


def key_of(inputs: Mapping[str, str] | None) -> str:
    """Return a single hash of all inputs."""
    return cache_key(inputs=dict(inputs or {}))


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return name -> (old value, new value) for each input that differs; a dash stands for a missing one."""
    pairs = {
        name: (before.get(name, "-"), now.get(name, "-")) for name in sorted({*before, *now}, key=_place)
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _place(name: str) -> tuple[int, str]:
    """Return a sort key that puts the user's changes before their consequences."""
    kinds = ("code ", "version ")
    last = next((number for number, kind in enumerate(kinds, 2) if name.startswith(kind)), 0)
    return (1 if name in (ROWS, BUNDLE) else last), name


def _rows(config: Config) -> dict[str, str]:
    return {ROWS: str(construct(config.data, Source).identity())} if "data" in config else {}
