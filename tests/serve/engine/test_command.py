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
    made = engine_command(MODEL, EngineSettings(kv_cache_gib=3, max_model_len=4096), listen=Path("/x/e.sock"))
    given = flags(made.argv)
    assert made.argv[1:3] == ("-m", "vllm.entrypoints.openai.api_server")
    assert given["--model"] == "/models/my-user"
    assert given["--served-model-name"] == "my-user"
    assert given["--uds"] == "/x/e.sock"
    assert given["--block-size"] == "32"
    assert given["--max-model-len"] == "4096"
    assert given["--max-logprobs"] == "20"
    # A whole prompt fits into a step: prompts in pieces kill the CPU engine when requests carry seeds.
    assert "--no-enable-chunked-prefill" in given
    assert int(given["--max-num-batched-tokens"]) >= 4096
    assert given["--generation-config"] == "vllm"
    assert "--enable-prefix-caching" in given
    assert "--enforce-eager" not in given
    assert "--port" not in given
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    assert made.env["VLLM_CPU_OMP_THREADS_BIND"] == cores
    assert made.env["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert made.env["VLLM_NO_USAGE_STATS"] == made.env["DO_NOT_TRACK"] == made.env["HF_HUB_OFFLINE"] == "1"
    assert made.url == "unix:/x/e.sock"


def test_a_second_engine_gets_its_own_core_and_port(installed) -> None:
    installed("vllm-cpu")
    core = max(os.sched_getaffinity(0))
    settings = EngineSettings(cores=(core,), eager=True, extra=("--seed", "1"))
    made = engine_command(MODEL, settings, listen=8101, name="assistant")
    given = flags(made.argv)
    assert made.env["VLLM_CPU_OMP_THREADS_BIND"] == str(core)
    assert (given["--host"], given["--port"]) == ("127.0.0.1", "8101")
    assert given["--served-model-name"] == "assistant"
    assert given["--seed"] == "1"
    assert "--enforce-eager" in given
    assert "--max-model-len" not in given
    assert made.url == "http://127.0.0.1:8101"


def test_cores_that_are_not_ours_are_refused(installed) -> None:
    installed("vllm-cpu")
    with pytest.raises(ConfigError, match="9999"):
        engine_command(MODEL, EngineSettings(cores=(9999,)), listen=8101)


def test_on_a_gpu_nothing_is_said_about_cores(installed) -> None:
    installed("vllm")
    made = engine_command(MODEL, EngineSettings(gpu_memory_utilization=0.5), listen=8101)
    assert not [name for name in made.env if name.startswith("VLLM_CPU")]
    assert flags(made.argv)["--gpu-memory-utilization"] == "0.5"
    assert "--block-size" not in made.argv


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
