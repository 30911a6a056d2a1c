"""What really answers behind a name: a part of the keys under which futures are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx2

from collab_train.rollout.engines.models import URLS, adapter_of, base_of
from collab_train.rollout.engines.patience import patiently
from usersim.backends.vllm_http import http_client
from usersim.errors import BackendError
from usersim.weights.default_model import BASE_NAME, build_base, resolve

SAMPLED_BYTES = 1 << 20


async def user_identity(where: str, *, retries: int = 0) -> str:
    """A user model by its content, an endpoint by the models that it says it serves.

    An endpoint that says nothing is its URL: what is behind it must then not change within a run directory.
    """
    if where.startswith(URLS):
        return await _endpoint(where, "USERSIM_API_KEY", retries)
    return folder_digest(resolve(None if where == "local" else where))


async def assistant_identity(where: str, *, retries: int = 0) -> str:
    if where.startswith(URLS):
        return await _endpoint(where, "OPENAI_API_KEY", retries)
    named = base_of(where)
    folders = [adapter_of(where), build_base() if named in ("local", BASE_NAME) else Path(named)]
    return "+".join(folder_digest(folder) for folder in folders if folder is not None)


def folder_digest(folder: Path) -> str:
    """Over names, sizes, and the first and last MiB of weights and JSON files: training changes all of a tensor."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(SAMPLED_BYTES))
            if size > SAMPLED_BYTES:
                stream.seek(-SAMPLED_BYTES, os.SEEK_END)
                digest.update(stream.read())
    return digest.hexdigest()[:16]


async def _endpoint(where: str, key: str, retries: int) -> str:
    url = where.partition("#")[0]
    client, base = http_client(url, timeout_s=10)
    headers = {"Authorization": f"Bearer {os.environ[key]}"} if os.environ.get(key) else {}

    async def ask(_: int) -> str:
        try:
            answer = await client.get(base + "/v1/models", headers=headers)
        except httpx2.HTTPError as error:
            raise BackendError(f"{url}: {str(error) or type(error).__name__}", retryable=True) from error
        if answer.status_code >= 500:
            raise BackendError(f"{url}: HTTP {answer.status_code}", retryable=True)
        return _models(answer)

    try:
        # An engine on its way up must not look like another one: that would simulate everything anew.
        return f"{where} {await patiently(ask, retries=retries)}"
    finally:
        await client.aclose()


def _models(answer: httpx2.Response) -> str:
    try:
        return ",".join(sorted(f"{model['id']}={model.get('root') or ''}" for model in answer.json()["data"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
