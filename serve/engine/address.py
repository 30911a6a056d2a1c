"""Addresses of engines: a loopback port, or a Unix socket that only its user can reach."""

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
    """Removes a stale socket file, or checks that the port is free: another server on it would look like the engine.

    Raises:
        BackendError: If the port is taken.
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
            raise BackendError(
                f"the engine cannot listen on {host}:{port}: {error.strerror}; choose another port"
            ) from error


def request_status(url: str, method: str, path: str, *, timeout_s: float, json: Any = None) -> int:
    """Sends one request and returns its status; raises httpx2.HTTPError if there is no response."""
    uds = url.removeprefix("unix:") if url.startswith("unix:") else None
    # Engines have no TLS. Loading certificates would take tens of milliseconds, several times a second.
    transport = httpx2.HTTPTransport(uds=uds, verify=False)
    with httpx2.Client(transport=transport, timeout=timeout_s) as client:
        return client.request(method, ("http://engine" if uds else url) + path, json=json).status_code


@contextlib.contextmanager
def private_socket() -> Iterator[Path]:
    """Yields a path for a Unix socket in a temporary folder that only this user can read."""
    folder = tempfile.mkdtemp(prefix="usersim-")
    if len(folder) > 80:  # a socket's path holds 107 bytes, and TMPDIR may be deep
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="usersim-", dir="/tmp")
    try:
        yield Path(folder) / "engine.sock"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
