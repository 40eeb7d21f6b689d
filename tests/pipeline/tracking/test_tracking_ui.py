import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import TrackingOptions
from pipeline.tracking.ui import serve_ui
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[3]
SERVE = """
import os, sys
from pathlib import Path
from pipeline.tracking import TrackingOptions
from pipeline.tracking.ui import serve_ui
serve_ui(TrackingOptions(), project_folder=Path(sys.argv[1]), port=int(sys.argv[2]), environ=os.environ,
         say=lambda text: print(text, flush=True))
print("ended", flush=True)
"""


def test_a_taken_port_is_answered_with_another(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"(?s)port {port} on 127.0.0.1 cannot.*PORT={port + 1}"):
            serve_ui(TrackingOptions(), project_folder=tmp_path, port=port, environ={})
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="70000 is not a valid port"):
        serve_ui(TrackingOptions(), project_folder=tmp_path, port=70000, environ={})


def test_a_store_that_is_a_server_has_its_own_pages(tmp_path: Path) -> None:
    said: list[str] = []
    serve_ui(
        TrackingOptions(uri="http://ann:pw@host:5000"), project_folder=tmp_path, environ={}, say=said.append
    )
    assert said == ["http://host:5000/#/experiments?workflowType=machine_learning"]


@pytest.mark.slow
def test_the_pages_are_served_on_this_machine_alone_until_ctrl_c(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "MLFLOW_TRACKING_URI"}}
    ui = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path), str(port)],
        env={**environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ui.stdout is not None
    assert "Starting" in ui.stdout.readline()
    assert ui.stdout.readline() == f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning\n"
    search = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=5"
    with urllib.request.urlopen(search, timeout=LIMIT_S) as answer:
        assert [e["name"] for e in json.load(answer)["experiments"]] == ["Default"]
    ui.send_signal(signal.SIGINT)
    talk, _ = ui.communicate(timeout=LIMIT_S)
    assert "ended" in talk
    assert ui.returncode == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
