"""Where an engine listens: a port of this machine, or a Unix socket that only its user can reach."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from usersim.errors import BackendError


def free_address(url: str) -> None:
    """A stale socket file would make the engine fail; a foreign one on our port would look like ours.

    Raises BackendError where the port is taken.
    """
    if url.startswith("unix:"):
        Path(url.removeprefix("unix:")).unlink(missing_ok=True)
        return
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise BackendError(f"an engine cannot listen on {host}:{port}: {error.strerror}") from error


def request_status(url: str, method: str, path: str, *, timeout_s: float, json: Any = None) -> int:
    """Of one request; raises httpx2.HTTPError where nobody answers."""
    uds = url.removeprefix("unix:") if url.startswith("unix:") else None
    # No TLS here; reading the certificates for nothing takes tens of milliseconds, several times a second.
    transport = httpx2.HTTPTransport(uds=uds, verify=False)
    with httpx2.Client(transport=transport, timeout=timeout_s) as client:
        return client.request(method, ("http://engine" if uds else url) + path, json=json).status_code


@contextlib.contextmanager
def private_socket() -> Iterator[Path]:
    """A path for a Unix socket that only this user can reach."""
    folder = tempfile.mkdtemp(prefix="usersim-")
    if len(folder) > 80:  # a socket's path holds 107 bytes, and TMPDIR may be deep
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="usersim-", dir="/tmp")
    try:
        yield Path(folder) / "engine.sock"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
