"""Trace a bundle back to its sources, and compare each recorded step with the current state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import TokenizerError
from datamodules.tokenizer import Tokenizer
from pipeline.compare.evaluations import HARNESS, STAGE, finished_evaluations
from pipeline.errors import BundleError
from pipeline.lineage.evaluations import evaluations_of
from pipeline.lineage.nodes import FROM, Node, State
from pipeline.lineage.sources import check_code, check_rows, check_source, check_versions
from pipeline.registry.versions import Version
from pipeline.runs import bundle
from pipeline.runs.folders import RunFolder
from pipeline.runs.stored import read_part, refused

Record = Mapping[str, Any]

#: The number of hexadecimal digits of a hash that are shown.
SHOWN = 12


def trace(folder: Path, *, runs_dir: Path, cache_dir: Path, registrations: Sequence[Version] = ()) -> Node:
    """Return the lineage of a bundle, below the registered models that it is a version of.

    Raises:
        BundleError: if the bundle is unfinished, or its record cannot be read.
    """
    bundle.read_done(folder)
    record = _provenance(folder)
    with refused(folder / "provenance.json"):
        node = _run(folder, record, None, finished_evaluations(runs_dir, (STAGE, HARNESS)), cache_dir)
    for registration in registrations:
        aliases = {"alias": ", ".join(registration.aliases)} if registration.aliases else {}
        node = Node(
            kind="registered", title=registration.title, facts=aliases, state=State.OK, made_from=(node,)
        )
    return node


def _provenance(folder: Path) -> Record:
    return read_part(folder, "provenance.json")


def _run(
    folder: Path, record: Record, digest: str | None, evaluations: Sequence[RunFolder], cache_dir: Path
) -> Node:
    """Return the node of a run and its bundle; `digest` is the bundle's digest as recorded by its child."""
    state, note = _check_bundle(folder, digest)
    present = state is not State.GONE
    shown = digest or (bundle.digest(folder) if present else None)
    facts = {"bundle": str(folder), **({"sha256": shown[:SHOWN]} if shown else {})}
    if "step" in record:
        facts["step"] = str(record["step"])
    measured = evaluations_of(folder, evaluations)
    parts = (*measured, *_made_with(record), *_data(record, folder if present else None, cache_dir))
    parent = _parent(record, evaluations, cache_dir)
    title = f"{record.get('run', folder.parent.parent.name)} ({record.get('stage', 'unknown stage')})"
    return Node(kind="run", title=title, facts=facts, state=state, note=note, made_from=(*parts, *parent))


def _check_bundle(folder: Path, digest: str | None) -> tuple[State, str]:
    if not bundle.is_finished(folder):
        return State.GONE, "deleted; the following was recorded by its child"
    if digest is not None and bundle.digest(folder) != digest:
        return State.CHANGED, f"its child was made from sha256 {digest[:SHOWN]}"
    try:
        bundle.check_files(folder)
    except BundleError as error:
        return State.CHANGED, error.problem
    return State.OK, ""


def _parent(record: Record, evaluations: Sequence[RunFolder], cache_dir: Path) -> list[Node]:
    """Return the node of the run that this one started from, by the parent's bundle or the child's record."""
    parent = record.get("parent")
    if not parent:
        return []
    folder, digest = Path(parent["bundle"]), parent.get("digest")
    same = bundle.is_finished(folder) and digest in (None, bundle.digest(folder))
    # If the bundle has changed, so has its origin: use the child's record.
    recorded = parent.get("provenance", {"run": parent["run"]})
    return [_run(folder, _provenance(folder) if same else recorded, digest, evaluations, cache_dir)]


def _made_with(record: Record) -> list[Node]:
    """Return nodes for the seed, the code and the versions."""
    code = record.get("code") or {}
    nodes = [Node(kind="seed", title=str(record.get("seed", "not recorded")))]
    state, note = check_code(code)
    facts = {"changes": code["git_diff_sha256"][:SHOWN]} if "git_diff_sha256" in code else {}
    commit = code.get("git_commit", "none")
    nodes.append(Node(kind="commit", title=commit[:SHOWN], facts=facts, state=state, note=note))
    if "command" in code:
        nodes.append(Node(kind="command", title=str(code["command"])))
    state, note, versions = check_versions(code)
    title = ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"
    return [*nodes, Node(kind="versions", title=title, state=state, note=note)]


def _data(record: Record, folder: Path | None, cache_dir: Path) -> list[Node]:
    """Return nodes for the token rows, the tokenizer, the corpus and imported weights."""
    nodes = []
    for split in ("train", "validation"):
        if (recorded := record.get(f"{split}_rows")) is not None:
            state, note = check_rows(recorded, cache_dir)
            facts = {"sha256": recorded[:SHOWN]}
            nodes.append(Node(kind="token rows", title=split, facts=facts, state=state, note=note))
    if (recorded := record.get("tokenizer")) is not None:
        state, note = _check_tokenizer(recorded, folder)
        parent = record.get("parent") or {}
        facts = {FROM: str(parent["run"])} if parent else {}
        if maker := record.get("tokenizer_run"):
            facts["made by"] = str(maker)
        nodes.append(Node(kind="tokenizer", title=recorded[:SHOWN], facts=facts, state=state, note=note))
    if corpus := record.get("corpus"):
        nodes.append(_corpus(corpus))
    if imported := record.get("imported"):
        nodes.append(_imported(imported))
    return nodes


def _check_tokenizer(recorded: str, folder: Path | None) -> tuple[State, str]:
    if folder is None:
        return State.UNCHECKED, "its bundle was deleted"
    try:
        found = Tokenizer.from_file(folder / "tokenizer.json").digest
    except TokenizerError as error:
        return State.CHANGED, error.problem
    return (State.OK, "") if found == recorded else (State.CHANGED, f"the bundle now has {found[:SHOWN]}")


def _imported(imported: Record) -> Node:
    """Return a node for the files that a model was imported from."""
    sources = _sources(imported)
    facts = {name: str(imported[name]) for name in ("model_type", "hub", "commit") if name in imported}
    if unused := imported.get("unused"):
        facts["not used"] = ", ".join(unused)
    title = str(imported["from"])
    return Node(kind="weights", title=title, facts=facts, state=_worst(sources), made_from=tuple(sources))


def _corpus(corpus: Record) -> Node:
    sources = _sources(corpus)
    return Node(
        kind="corpus",
        title=str(corpus["name"]),
        facts={"fingerprint": str(corpus["fingerprint"])[:SHOWN]},
        state=_worst(sources),
        made_from=tuple(sources),
    )


def _sources(record: Record) -> list[Node]:
    """Return nodes for source files, compared with their current state."""
    sources = []
    for source in record.get("sources", []):
        state, note = check_source(str(source["uri"]), str(source.get("sha256", "")))
        facts = {"split": str(source["split"])} if "split" in source else {}
        facts |= {"sha256": str(source.get("sha256", ""))[:SHOWN]}
        if "n_bytes" in source:
            facts["bytes"] = f"{source['n_bytes']:,}"
        title = str(source["uri"])
        sources.append(Node(kind="source", title=title, facts=facts, state=state, note=note))
    return sources


def _worst(nodes: Sequence[Node]) -> State:
    order = (State.CHANGED, State.GONE, State.UNCHECKED, State.OK)
    return min((node.state for node in nodes), key=order.index, default=State.UNCHECKED)
