"""Downloads of D4RL's files: from a server on this machine, whole, resumed, and refused."""

from __future__ import annotations

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mabe_transfer.bridges import d4rl
from mabe_transfer.bridges.download import download
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 1000
NAME = "d4rl:hopper-medium-v2"
FILE = "hopper_medium-v2.hdf5"


class Server(ThreadingHTTPServer):
    """Serves `content`; `asked` keeps the path and the range of each request."""

    content, resumes, cut = CONTENT, True, 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        start = int(wanted[6:-1]) if wanted and self.server.resumes else 0
        self.send_response(206 if start else 200)
        self.end_headers()
        stop = self.server.cut or len(self.server.content)
        self.wfile.write(self.server.content[start:stop])

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """Where the file goes; the only mirror that is listed is the server."""
    listed = d4rl.Listed(
        path=f"gym_mujoco_v2/{FILE}",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(d4rl, "files", lambda: {"hopper-medium-v2": listed})
    monkeypatch.setattr(d4rl, "mirrors", lambda: (address(server),))
    monkeypatch.setenv(d4rl.VARIABLE, str(tmp_path / "datasets"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "datasets"


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/offline_rl"


def test_whole_file_gets_its_name(server: Server, folder: Path) -> None:
    assert download(NAME) == folder / FILE
    assert (folder / FILE).read_bytes() == CONTENT
    assert server.asked == [(f"/offline_rl/gym_mujoco_v2/{FILE}", None)]
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert download(NAME) == folder / FILE  # it is here: nobody is asked again
    assert len(server.asked) == 1


def test_interrupted_download_goes_on_where_it_stopped(server: Server, folder: Path) -> None:
    server.cut = 1000
    with pytest.raises(UserError, match="ended after 1,000 of 256,000 bytes"):
        download(NAME)
    assert not (folder / FILE).exists()
    server.cut = 0
    download(NAME)
    assert server.asked[-1][1] == "bytes=1000-"
    assert (folder / FILE).read_bytes() == CONTENT


def test_mirror_that_cannot_resume_begins_again(server: Server, folder: Path) -> None:
    server.cut = 1000
    with pytest.raises(UserError, match="what came so far is kept"):
        download(NAME)
    server.cut, server.resumes = 0, False
    download(NAME)
    assert (folder / FILE).read_bytes() == CONTENT


def test_other_content_is_refused_and_not_kept(server: Server, folder: Path) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(UserError, match="its SHA-256 is not D4RL's"):
        download(NAME)
    assert list(folder.iterdir()) == []


def test_longer_content_is_refused(server: Server, folder: Path) -> None:
    server.content = CONTENT * 20
    with pytest.raises(UserError, match="cannot be downloaded"):
        download(NAME)
    assert not (folder / FILE).exists()


def test_next_mirror_is_asked_when_one_is_away(server: Server, folder: Path) -> None:
    away = "http://127.0.0.1:9/none"
    assert download(NAME, [away]) == folder / FILE


def test_full_disk_is_said_and_no_mirror_is_blamed(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(UserError, match=r"datasets/ has 0 MiB left, and 0 MiB are to come\.$"):
        download(NAME)
    assert server.asked == []


def test_offline_machine_gets_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d4rl, "mirrors", lambda: ("http://127.0.0.1:9",))
    with pytest.raises(
        UserError, match=r"cannot be reached.*put the file into .*datasets/ by hand"
    ):
        download(NAME)
    assert not folder.exists()


def test_mirror_must_be_a_web_address(folder: Path) -> None:
    with pytest.raises(UserError, match="http or https address"):
        download(NAME, ["file:///etc"])
