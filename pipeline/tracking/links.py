"""URLs of MLflow's pages, each in the model-training view.

By default MLflow opens in its GenAI view, which shows no runs. The parameter that changes this must be inside
the hash route: `http://HOST:PORT/#/experiments/1/runs?workflowType=machine_learning`.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote

from pipeline.tracking.secret_forms import without_credentials

#: Where `make ui` serves a local store.
LOCAL_UI = "http://127.0.0.1:5000"
_VIEW = "workflowType=machine_learning"


def home_url(store_uri: str) -> str:
    """Return the URL of the list of experiments."""
    return f"{_base(store_uri)}/#/experiments?{_VIEW}"


def table_url(store_uri: str, experiment_id: str) -> str:
    """Return the URL of the table of an experiment's runs."""
    return f"{_base(store_uri)}/#/experiments/{experiment_id}/runs?{_VIEW}"


def charts_url(store_uri: str, experiment_id: str, run_ids: Sequence[str] = ()) -> str:
    """Return the URL of the charts of all runs of an experiment, or of the given ones."""
    address = f"{table_url(store_uri, experiment_id)}&compareRunsMode=CHART"
    if run_ids:
        chosen = ",".join(f"'{run_id}'" for run_id in run_ids)
        address += f"&searchFilter={quote(f'attributes.run_id IN ({chosen})', safe='')}"
    return address


def tagged_url(store_uri: str, experiment_id: str, tag: str, value: str) -> str:
    """Return the URL of the charts of all runs that have this tag."""
    mark = '"' if "'" in value else "'"
    query = quote(f"tags.{tag} = {mark}{value}{mark}", safe="")
    return f"{charts_url(store_uri, experiment_id)}&searchFilter={query}"


def compare_url(store_uri: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str:
    """Return the URL of the comparison of runs from one or more experiments."""
    runs = quote(json.dumps(list(run_ids), separators=(",", ":")), safe="")
    experiments = quote(json.dumps(list(experiment_ids), separators=(",", ":")), safe="")
    return f"{_base(store_uri)}/#/compare-runs?runs={runs}&experiments={experiments}&{_VIEW}"


def run_url(store_uri: str, experiment_id: str, run_id: str) -> str:
    """Return the URL of a run's page."""
    return f"{_base(store_uri)}/#/experiments/{experiment_id}/runs/{run_id}?{_VIEW}"


def version_url(store_uri: str, name: str, number: str) -> str:
    """Return the URL of the page of a version of a registered model."""
    return f"{_base(store_uri)}/#/models/{quote(name, safe='')}/versions/{number}?{_VIEW}"


def _base(store_uri: str) -> str:
    """Return the base URL: that of the server, or for a database that of the server started by `make ui`."""
    if not store_uri.startswith(("http://", "https://")):
        return LOCAL_UI
    return without_credentials(store_uri).rstrip("/")
