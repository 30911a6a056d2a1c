"""API keys, stored as SHA-256 hashes only. `python -m serve.http.keys NAME` makes one.

python -m serve.http.keys alice --requests-per-minute 60 >> keys.toml
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import secrets
import sys

from pydantic import ValidationError

from serve.config import ApiKey, KeyFile, ServeConfig, check_quotas
from serve.http.quota import Quota
from usersim.cli import run_main
from usersim.errors import ConfigError
from usersim.storage.records import explain
from usersim.storage.toml_config import load_config

SCHEME = b"bearer "


class KeyRing:
    """Valid API keys and their quotas, replaceable at run time.

    With `is_open` requests need no key. A ring that had keys does not become open when its last key is removed.
    """

    def __init__(self, keys: tuple[ApiKey, ...], *, is_open: bool = False) -> None:
        self.quotas: dict[str, Quota] = {}
        self.is_open = is_open
        self.replace(keys, is_open=is_open)

    def replace(self, keys: tuple[ApiKey, ...], *, is_open: bool = False, open_access: bool = False) -> None:
        """Replaces all keys at once. Unchanged quotas keep their counts.

        Args:
            keys: The new keys.
            is_open: True if the config allows requests without a key.
            open_access: True if the config sets `open_access` explicitly, which opens a ring that had keys.
        """
        self.is_open = not keys and is_open and (self.is_open or open_access)
        unchanged = {
            key.name: self.quotas[key.name]
            for key in keys
            if key.name in self.quotas and self.quotas[key.name].matches(key)
        }
        self.quotas = {key.name: unchanged.get(key.name) or Quota(key) for key in keys}
        self._keys = [(bytes.fromhex(key.sha256), key.name, self.quotas[key.name]) for key in keys]

    def find(self, headers: list[tuple[bytes, bytes]]) -> tuple[str, Quota] | None:
        """Returns the name and quota of the request's key; None for a wrong key, no key, or several."""
        credentials = [value for header, value in headers if header == b"authorization"]
        if len(credentials) != 1 or credentials[0][: len(SCHEME)].lower() != SCHEME:
            return None
        request_digest = hashlib.sha256(credentials[0][len(SCHEME) :].strip()).digest()
        match = None
        # No early exit, so that the time does not depend on the key.
        for key_digest, name, quota in self._keys:
            if hmac.compare_digest(key_digest, request_digest):
                match = name, quota
        return match


def load_keys(config: ServeConfig) -> tuple[ApiKey, ...]:
    """Returns the keys of the config and its `keys_file`; raises ConfigError for conflicting quotas."""
    if config.keys_file is None:
        return config.keys
    keys = config.keys + load_config(KeyFile, config.keys_file).keys
    try:
        check_quotas(keys)
    except ValueError as error:
        raise ConfigError(f"{config.keys_file}: {error}") from error
    return keys


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serve.http.keys",
        description="Makes an API key. Prints the key on stderr, once, and its config entry on stdout.",
    )
    parser.add_argument("name", help="name of the client in logs and metrics; letters, digits, _ . -")
    parser.add_argument("--requests-per-minute", type=int, help="turns per minute (default: unlimited)")
    parser.add_argument(
        "--tokens-per-minute", type=int, help="prompt and sampled tokens per minute (default: unlimited)"
    )
    args = parser.parse_args(argv)
    secret = f"userlm-{secrets.token_urlsafe(32)}"
    try:
        key = ApiKey(sha256=hashlib.sha256(secret.encode()).hexdigest(), **vars(args))
    except ValidationError as error:
        raise ConfigError(explain(error)) from error
    fields = key.model_dump(exclude_none=True)
    sys.stderr.write(f"{secret}\n")
    lines = [f"{field} = {json.dumps(value)}" for field, value in fields.items()]
    sys.stdout.write("\n".join(["[[keys]]", *lines]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
