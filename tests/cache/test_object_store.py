"""The cache on an object store: the real commands against a local S3 server, healthy and faulty."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cache import Cache
from tests.caches import assert_equal_caches, count_finished
from tests.conftest import Project, write_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
KINDS = ("sam", "masks", "teacher")
PATIENCE = 120.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
SETTINGS = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # nothing outside this machine is asked for credentials
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Gateway(ThreadingHTTPServer):
    """A proxy of the server that counts requests, refuses some, and can stop answering."""

    daemon_threads = True

    def __init__(self, server: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.server = server
        self.requests = 0
        self.refused = 0
        self.slow_down_every = 0  # every n-th request is answered with 503
        self.is_down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def forward(self) -> None:
        gateway = self.server
        if gateway.is_down:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        gateway.requests += 1
        if gateway.slow_down_every and gateway.requests % gateway.slow_down_every == 0:
            gateway.refused += 1
            self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
            return
        connection = http.client.HTTPConnection(*gateway.server, timeout=PATIENCE)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        self._answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        is_head = self.command == "HEAD"
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection") and (
                is_head or name.lower() != "content-length"
            ):
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not is_head:
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """A local S3 server, which keeps its objects in memory."""
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield "127.0.0.1", port
    process.kill()
    process.wait()


@dataclass
class Bucket:
    """An empty bucket behind a gateway of its own."""

    gateway: Gateway
    name: str

    @property
    def cache(self) -> str:
        return f"s3://{self.name}/cache"

    def start(self, *arguments: object, credentials: bool = True) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        given = SETTINGS | (CREDENTIALS if credentials else {}) | {"AWS_ENDPOINT_URL": self.gateway.url}
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, arguments)],
            cwd=REPOSITORY,
            env=inherited | given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: object, expect: int = 0, credentials: bool = True) -> tuple[str, str]:
        """Returns stdout and stderr of a command."""
        process = self.start(*arguments, credentials=credentials)
        out, err = process.communicate(timeout=3 * PATIENCE)
        assert process.returncode == expect, out + err
        return out, err

    def figures(self, *arguments: object) -> dict:
        """Returns the figures of a command, which must succeed without a warning."""
        out, err = self.run(*arguments, "--json")
        assert "warning" not in err.lower(), err
        assert "Traceback" not in err, err
        return json.loads(out)


@pytest.fixture
def bucket(
    server: tuple[str, int], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    import s3fs

    gateway = Gateway(server)
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    for name, value in {**SETTINGS, **CREDENTIALS, "AWS_ENDPOINT_URL": gateway.url}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"b{abs(hash(request.node.nodeid))}"
    s3fs.S3FileSystem().mkdir(name)
    yield Bucket(gateway, name)
    s3fs.S3FileSystem.clear_instance_cache()
    gateway.shutdown()
    gateway.server_close()


def finished(cache: str) -> int:
    return count_finished(Cache(cache, "toy"))


def wait_for(cache: str, images: int, run: subprocess.Popen[str]) -> int:
    """Waits for at least `images` finished images, over all artefacts; returns their number."""
    deadline = time.monotonic() + PATIENCE
    while (count := finished(cache)) < images:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return count


STUDENT = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16))
"""


@pytest.fixture
def labelled(project: Project) -> Project:
    """A labelled data set and a student of some thousand parameters."""
    for k in range(3):
        project.add_labels(f"p{k:03d}_labelTrainIds.png", np.full((64, 256), k, np.uint8))
    labels = {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}
    write_yaml(
        project.manifest_path,
        {"name": "toy", "root": ".", "splits": {"train": {"images": ["images/*"], "labels": labels}}},
    )
    student = project.folder / "student.py"
    student.write_text(STUDENT.format(base=str(REPOSITORY / "mmseg_configs" / "students" / "goodsam_m.py")))
    settings = yaml.safe_load(project.config_path.read_text())
    settings["train"] = {"student": str(student), "iterations": 2, "workers": 0}
    write_yaml(project.config_path, settings)
    return project


@pytest.mark.slow
def test_the_whole_chain_on_an_object_store(labelled: Project, bucket: Bucket, tmp_path: Path) -> None:
    here = (*labelled.arguments(), "--cache", bucket.cache)
    assert bucket.figures("precompute", *here)["teacher"]["computed"] == 3
    assert bucket.figures("fuse", *here, "--workers", "2")["computed"] == 3
    again = bucket.figures("precompute", *here)
    assert [again[kind]["reused"] for kind in KINDS] == [3, 3, 3]
    assert "ensemble (paper)" in bucket.figures("evaluate", *here)
    bucket.run("labels", *here, "--out", tmp_path / "labels")
    assert len(list((tmp_path / "labels").rglob("*_labelTrainIds.png"))) == 3
    inspected = bucket.figures("inspect", *here)
    assert {name.split("/")[1] for name in inspected} == {"sam", "masks", "teacher", "fused"}
    assert bucket.figures("verify", *here)["damaged"] == 0
    bucket.figures("gc", *here, "--older-than", "0")
    trained = bucket.figures("train", *here, "--work-dir", tmp_path / "runs")
    assert Path(trained["checkpoint"]).name == "iter_2.pth"
    for stage in ("precompute", "fuse"):
        bucket.figures(stage, *labelled.arguments(), "--cache", tmp_path / "local")
    assert_equal_caches(bucket.cache, str(tmp_path / "local"))


@pytest.mark.slow
def test_a_panorama_takes_few_requests(make_project: Callable[..., Project], bucket: Bucket) -> None:
    counts = {}
    for images in (2, 6):
        project = make_project(images, name=f"toy{images}")
        here = (*project.arguments(), "--cache", bucket.cache, "--set", "fusion.rule=best")
        for name, stage in (("precompute", "precompute"), ("fuse", "fuse"), ("rerun", "fuse")):
            before = bucket.gateway.requests
            bucket.figures(stage, *here)
            counts[name, images] = bucket.gateway.requests - before
    each = {name: (counts[name, 6] - counts[name, 2]) / 4 for name in ("precompute", "fuse", "rerun")}
    assert each["rerun"] <= 3  # a marker an artefact
    assert each["fuse"] <= 15
    assert each["precompute"] <= 30


@pytest.mark.slow
def test_a_store_that_stops_answering_is_one_error_and_the_next_run_continues(
    make_project: Callable[..., Project], bucket: Bucket, tmp_path: Path
) -> None:
    project = make_project(8)
    here = (*project.arguments(), "--cache", bucket.cache)
    run = bucket.start("precompute", *here)
    before = wait_for(bucket.cache, 3, run)
    bucket.gateway.is_down = True
    _, err = run.communicate(timeout=3 * PATIENCE)  # each request is repeated for up to 45 seconds
    bucket.gateway.is_down = False
    assert run.returncode == 2
    assert err.startswith(f"error: cache {bucket.cache}/toy: ")
    assert err.endswith("; nothing finished is lost\n")
    assert len(err.splitlines()) == 1
    between = finished(bucket.cache)
    assert before <= between < 24
    again = bucket.figures("precompute", *here)
    assert sum(again[kind]["reused"] for kind in KINDS) == between
    bucket.figures("precompute", *project.arguments(), "--cache", tmp_path / "local")
    assert_equal_caches(bucket.cache, str(tmp_path / "local"))


@pytest.mark.slow
def test_a_killed_run_on_an_object_store_is_continued(
    make_project: Callable[..., Project], bucket: Bucket, tmp_path: Path
) -> None:
    project = make_project(6)
    here = (*project.arguments(), "--cache", bucket.cache)
    for images in (1, 5, 10):
        run = bucket.start("precompute", *here)
        wait_for(bucket.cache, images, run)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    bucket.figures("precompute", *here)
    bucket.figures("gc", *here, "--older-than", "0")
    bucket.figures("precompute", *project.arguments(), "--cache", tmp_path / "local")
    assert_equal_caches(bucket.cache, str(tmp_path / "local"))


@pytest.mark.slow
def test_a_request_refused_with_slow_down_is_repeated(project: Project, bucket: Bucket, tmp_path: Path) -> None:
    bucket.gateway.slow_down_every = 4
    assert bucket.figures("precompute", *project.arguments(), "--cache", bucket.cache)["failed"] == 0
    assert bucket.gateway.refused > 5
    bucket.gateway.slow_down_every = 0
    bucket.figures("precompute", *project.arguments(), "--cache", tmp_path / "local")
    assert_equal_caches(bucket.cache, str(tmp_path / "local"))


@pytest.mark.slow
def test_two_runs_at_once_on_an_object_store(
    make_project: Callable[..., Project], bucket: Bucket, tmp_path: Path
) -> None:
    project = make_project(6)
    runs = [bucket.start("precompute", "--json", *project.arguments(), "--cache", bucket.cache) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, err
        assert json.loads(out)["failed"] == 0
    bucket.figures("precompute", *project.arguments(), "--cache", tmp_path / "local")
    assert_equal_caches(bucket.cache, str(tmp_path / "local"))


@pytest.mark.slow
def test_a_missing_bucket_is_one_error_and_is_not_created(project: Project, bucket: Bucket) -> None:
    import s3fs

    for stage in ("precompute", "fuse"):
        _, err = bucket.run(stage, *project.arguments(), "--cache", "s3://no-such-bucket/cache", expect=2)
        assert err.startswith("error: ")
        assert "s3://no-such-bucket/cache" in err
        assert len(err.splitlines()) == 1
    assert not s3fs.S3FileSystem().exists("no-such-bucket")


@pytest.mark.slow
def test_missing_credentials_are_one_error(project: Project, bucket: Bucket) -> None:
    for stage in ("precompute", "inspect"):
        _, err = bucket.run(stage, *project.arguments(), "--cache", bucket.cache, expect=2, credentials=False)
        assert err.startswith(f"error: cache {bucket.cache}/toy: ")
        assert "credentials" in err
        assert len(err.splitlines()) == 1


def test_a_cache_in_memory_is_refused(project: Project) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "precompute", *project.arguments(), "--cache", "memory://cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: cache memory://cache/toy: memory ends with the process")
    assert len(result.stderr.splitlines()) == 1
