"""Content hashes of the user and assistant models, for the keys of stored futures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx2

from collab_train.rollout.engines.models import URLS, adapter_of, base_of
from collab_train.rollout.engines.patience import retry
from usersim.backends.vllm_http import http_client
from usersim.errors import BackendError
from usersim.weights.default_model import BASE_NAME, build_base, resolve

SAMPLED_BYTES = 1 << 20


async def user_cache_key(address: str, *, retries: int = 0) -> str:
    """Returns the cache key of a user: a content hash of local weights, or the model list of an endpoint.

    For an endpoint without a model list, it is the URL. Its model must then not change within a run directory.
    """
    if address.startswith(URLS):
        return await _endpoint_key(address, "USERSIM_API_KEY", retries)
    return folder_digest(resolve(None if address == "local" else address))


async def assistant_cache_key(address: str, *, retries: int = 0) -> str:
    """Returns the cache key of an assistant, as `user_cache_key`; an adapter adds its own hash."""
    if address.startswith(URLS):
        return await _endpoint_key(address, "OPENAI_API_KEY", retries)
    base = base_of(address)
    folders = [adapter_of(address), build_base() if base in ("local", BASE_NAME) else Path(base)]
    return "+".join(folder_digest(folder) for folder in folders if folder is not None)


def folder_digest(folder: Path) -> str:
    """Returns a hash of a model folder: names, sizes, and first and last MiB of weights and JSON files.

    That suffices, because training changes all of a tensor.
    """
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


async def _endpoint_key(address: str, api_key_variable: str, retries: int) -> str:
    url = address.partition("#")[0]
    client, base = http_client(url, timeout_s=10)
    headers = (
        {"Authorization": f"Bearer {os.environ[api_key_variable]}"}
        if os.environ.get(api_key_variable)
        else {}
    )

    async def ask(_: int) -> str:
        try:
            answer = await client.get(base + "/v1/models", headers=headers)
        except httpx2.HTTPError as error:
            raise BackendError(f"{url}: {str(error) or type(error).__name__}", retryable=True) from error
        if answer.status_code >= 500:
            raise BackendError(f"{url}: HTTP {answer.status_code}", retryable=True)
        return _models(answer)

    try:
        # An engine that is starting must not get another key: all futures would be simulated again.
        return f"{address} {await retry(ask, retries=retries)}"
    finally:
        await client.aclose()


def _models(answer: httpx2.Response) -> str:
    try:
        return ",".join(sorted(f"{model['id']}={model.get('root') or ''}" for model in answer.json()["data"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
