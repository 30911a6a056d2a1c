import os
from pathlib import Path

import pytest

from serve.config import EngineSettings
from serve.engine import command
from serve.engine.command import engine_command, installed_device
from usersim.errors import ConfigError

MODEL = Path("/models/my-user")


def flags(argv: tuple[str, ...]) -> dict[str, str]:
    """Every flag with what follows it."""
    return {flag: after for flag, after in zip(argv, [*argv[1:], ""], strict=True) if flag[:2] == "--"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    def pretend(*distributions: str) -> None:
        monkeypatch.setattr(command, "_installed", lambda name: name in distributions)

    return pretend


def test_on_cpu_what_matters_is_said_explicitly(installed) -> None:
    installed("vllm-cpu")
    engine = engine_command(
        MODEL, EngineSettings(kv_cache_gib=3, max_model_len=4096), listen=Path("/x/e.sock")
    )
    options = flags(engine.argv)
    assert engine.argv[1:3] == ("-m", "vllm.entrypoints.openai.api_server")
    assert options["--model"] == "/models/my-user"
    assert options["--served-model-name"] == "my-user"
    assert options["--uds"] == "/x/e.sock"
    assert options["--block-size"] == "32"
    assert options["--max-model-len"] == "4096"
    assert options["--max-logprobs"] == "20"
    # A whole prompt fits into a step: prompts in pieces kill the CPU engine when requests carry seeds.
    assert "--no-enable-chunked-prefill" in options
    assert int(options["--max-num-batched-tokens"]) >= 4096
    assert options["--generation-config"] == "vllm"
    assert "--enable-prefix-caching" in options
    assert "--enforce-eager" not in options
    assert "--port" not in options
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    assert engine.env["VLLM_CPU_OMP_THREADS_BIND"] == cores
    assert engine.env["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert (
        engine.env["VLLM_NO_USAGE_STATS"] == engine.env["DO_NOT_TRACK"] == engine.env["HF_HUB_OFFLINE"] == "1"
    )
    assert engine.url == "unix:/x/e.sock"


def test_a_second_engine_gets_its_own_core_and_port(installed) -> None:
    installed("vllm-cpu")
    core = max(os.sched_getaffinity(0))
    settings = EngineSettings(cores=(core,), eager=True, extra=("--seed", "1"))
    engine = engine_command(MODEL, settings, listen=8101, name="assistant")
    options = flags(engine.argv)
    assert engine.env["VLLM_CPU_OMP_THREADS_BIND"] == str(core)
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "8101")
    assert options["--served-model-name"] == "assistant"
    assert options["--seed"] == "1"
    assert "--enforce-eager" in options
    assert "--max-model-len" not in options
    assert engine.url == "http://127.0.0.1:8101"


def test_cores_that_are_not_ours_are_refused(installed) -> None:
    installed("vllm-cpu")
    with pytest.raises(ConfigError, match="9999"):
        engine_command(MODEL, EngineSettings(cores=(9999,)), listen=8101)


def test_on_a_gpu_nothing_is_said_about_cores(installed) -> None:
    installed("vllm")
    engine = engine_command(MODEL, EngineSettings(gpu_memory_utilization=0.5), listen=8101)
    assert not [name for name in engine.env if name.startswith("VLLM_CPU")]
    assert flags(engine.argv)["--gpu-memory-utilization"] == "0.5"
    assert "--block-size" not in engine.argv


def test_both_wheels_or_none_is_an_error_with_its_cure(installed) -> None:
    installed("vllm", "vllm-cpu")
    with pytest.raises(ConfigError, match="pip uninstall"):
        installed_device()
    installed()
    with pytest.raises(ConfigError, match="--engine-url"):
        installed_device()


def test_it_reads_as_one_would_type_it(installed) -> None:
    installed("vllm-cpu")
    typed = str(engine_command(Path("/models/with space"), EngineSettings(), listen=8101))
    assert "VLLM_CPU_OMP_THREADS_BIND=" in typed
    assert "--model '/models/with space'" in typed


@pytest.mark.parametrize("flag", ["--host=0.0.0.0", "--host", "--port", "--uds=/x", "--served_model_name"])
def test_where_an_engine_listens_is_not_for_the_config_to_say(installed, flag: str) -> None:
    installed("vllm")
    with pytest.raises(ConfigError, match="is reserved"):
        engine_command(MODEL, EngineSettings(extra=(flag, "x")), listen=8101)
