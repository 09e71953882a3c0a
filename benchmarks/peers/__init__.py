"""Peers that run in processes of their own, so that nothing of theirs gets into ours.

A worker is a Python program that imports a peer from a folder outside the project, reads requests
from its standard input and answers them, one line of JSON each. Only one of us works at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from types import TracebackType

HERE = Path(__file__).parent


class PeerError(RuntimeError):
    """A peer could not do what it was asked to."""


class Peer:
    """A worker that waits for requests.

    Args:
        program: Its file in this folder.
        folder: The peer's checkout.
        python: The interpreter to run it with.
        threads: Threads and, where the peer takes no such number, cores that it may use.
    """

    def __init__(self, program: str, folder: Path, python: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"}
        self.name = program
        self._process = subprocess.Popen(
            [python, str(HERE / program), str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def send(self, call: str, **given: Any) -> None:
        """Ask for something without waiting for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, **given}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(f"{self.name} ended by itself.") from None

    def receive(self) -> Any:
        """Wait for the answer."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise PeerError(f"{self.name} ended by itself.")
        found = json.loads(answer)
        if "error" in found:
            raise PeerError(f"{self.name}: {found['error']}")
        return found["answer"]

    def ask(self, call: str, **given: Any) -> Any:
        """Ask for something and wait for it."""
        self.send(call, **given)
        return self.receive()

    def close(self) -> None:
        """Let it end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def offlinerlkit(given: argparse.Namespace, threads: int | None = None) -> Peer | str:
    """OfflineRL-Kit's worker, or why there is none."""
    folder = given.peer_offlinerlkit
    if folder is None:
        return "no --peer-offlinerlkit"
    if not (folder / "offlinerlkit").is_dir():
        return f"--peer-offlinerlkit: no package offlinerlkit in {folder}"
    return _start("run_offlinerlkit.py", folder, sys.executable, threads or given.threads)


def unifloral(given: argparse.Namespace, threads: int | None = None) -> Peer | str:
    """Unifloral's worker, or why there is none."""
    folder = given.peer_unifloral
    if folder is None:
        return "no --peer-unifloral"
    if not (folder / "algorithms" / "mopo.py").is_file():
        return f"--peer-unifloral: no algorithms/mopo.py in {folder}"
    if not given.python_unifloral:
        return "no --python-unifloral with jax"
    return _start("run_unifloral.py", folder, given.python_unifloral, threads or given.threads)


def built(peer: Peer | str, data: Path, robot: str, **settings: Any) -> Peer | str:
    """A peer that has made its learner from the shared arrays, or why it has not."""
    if isinstance(peer, str):
        return peer
    try:
        peer.ask("build", data=str(data), robot=robot, **settings)
    except PeerError as error:
        peer.close()
        return str(error)
    return peer


def _start(program: str, folder: Path, python: str, threads: int) -> Peer | str:
    """A worker that has imported its peer."""
    try:
        peer = Peer(program, folder.resolve(), python, threads)
    except OSError as error:
        return f"cannot start {python}: {error}"
    try:
        peer.ask("versions")
    except PeerError as error:
        peer.close()
        return str(error)
    return peer
