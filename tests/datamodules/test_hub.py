"""The hub, imitated on loopback: the real libraries ask a small server that answers as the Hub does."""

import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORIES = [f"Story number {number} of the Hub. 故事 {number}\n" for number in range(60)]


def write_repository(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", STORIES[:50]), ("validation", STORIES[50:])):
        pq.write_table(
            pa.table({"story": rows, "id": list(range(len(rows)))}), folder / f"data/{split}-0.parquet"
        )
    return folder


class ImitatedHub(http.server.BaseHTTPRequestHandler):
    """The endpoints of the Hub that reading one public data set needs."""

    protocol_version = "HTTP/1.1"
    repository: Path

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        if not re.match(r"/(api/)?datasets/someone/stories(/|$)", path):
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif found := re.match(r"/datasets/[^/]+/[^/]+/resolve/[^/]+/(.*)", path):
            self.send_file(found[1])
        elif found := re.match(r"/api/datasets/[^/]+/[^/]+/tree/[^/]+/?(.*)", path):
            self.send_json(self.entries(found[1]))
        elif "/paths-info/" in path:
            wanted = json.loads(self.body)["paths"]
            self.send_json([entry for entry in self.entries("") if entry["path"] in wanted])
        else:
            files = [{"rfilename": entry["path"]} for entry in self.entries("") if entry["type"] == "file"]
            self.send_json(
                {"id": "someone/stories", "sha": COMMIT, "private": False, "siblings": files, "tags": []}
            )

    def entries(self, under: str) -> list[dict[str, object]]:
        return [
            {
                "type": "file" if path.is_file() else "directory",
                "path": str(path.relative_to(self.repository)),
                "size": path.stat().st_size if path.is_file() else 0,
                "oid": hashlib.sha1(str(path).encode()).hexdigest(),
            }
            for path in sorted(self.repository.rglob("*"))
            if str(path.relative_to(self.repository)).startswith(under)
        ]

    def send_file(self, name: str) -> None:
        path = self.repository / name
        if not path.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.send(206, content[first : last + 1], headers)
        else:
            self.send(200, content, headers)

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository = write_repository(tmp_path_factory.mktemp("hub") / "stories")
    handler = type("Handler", (ImitatedHub,), {"repository": repository})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


READ = """
import json, sys
from datamodules.corpus import Hub, texts
from datamodules.errors import DataError
try:
    corpus = Hub(**json.loads(sys.argv[1])).load()
    train = list(texts(corpus.train))
    answer = {"name": corpus.name, "train": train, "again": list(texts(corpus.train)) == train,
              "validation": list(texts(corpus.validation)), "fingerprint": corpus.fingerprint,
              "sources": corpus.sources, "n_train_rows": corpus.n_train_rows}
except DataError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
"""


def read_in_a_new_process(endpoint: str, home: Path, **options: object) -> dict[str, object]:
    """The libraries read HF_ENDPOINT and HF_HOME when they are imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(options)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_read_whole_with_its_commit(hub: str, tmp_path: Path) -> None:
    got = read_in_a_new_process(hub, tmp_path, path="someone/stories", columns={"text": "story"})
    assert got["train"] == STORIES[:50]
    assert got["validation"] == STORIES[50:]
    assert got["n_train_rows"] == 50
    assert got["sources"][0]["uri"] == f"hf://datasets/someone/stories@{COMMIT}/default/train"  # type: ignore[index]


@pytest.mark.slow
def test_a_stream_gives_the_same_rows_in_the_same_order_and_is_read_again_from_the_start(
    hub: str, tmp_path: Path
) -> None:
    got = read_in_a_new_process(
        hub, tmp_path, path="someone/stories", columns={"text": "story"}, streaming=True
    )
    assert got["train"] == STORIES[:50]
    assert got["again"] is True
    assert got["validation"] == STORIES[50:]
    assert got["n_train_rows"] is None


@pytest.mark.slow
def test_an_unknown_data_set_is_named(hub: str, tmp_path: Path) -> None:
    got = read_in_a_new_process(hub, tmp_path, path="someone/novels")
    assert got["error"] == (
        "there is no data set someone/novels on the Hub, and no such folder; "
        "expected OWNER/NAME of a public data set\nhint: "
        "check the name, or run `hf auth login` if it is private"
    )


@pytest.mark.slow
def test_without_a_network_the_ways_out_are_told(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        got = read_in_a_new_process(
            f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path, path="someone/stories"
        )
    error = str(got["error"])
    assert error.startswith("the Hub cannot be reached for someone/stories: ")
    assert all(word in error for word in ("PRELUDE_DATA", "data=files", "HF_ENDPOINT", "HF_HUB_OFFLINE=1"))
