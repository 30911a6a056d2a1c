"""Our top-p on CPU keeps what vLLM's keeps, and the plugin is found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
ops = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler", reason="vllm is not installed")

from serve.engine.command import CPU_ENGINE  # noqa: E402
from usersim.decoding.top_p import nucleus  # noqa: E402


def logits(rows: int, spread: float, vocabulary: int = 9000) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(rows)) * spread


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("k", [None, 1, 40, 300, 9000])
def test_the_same_tokens_stay_as_in_vllm(spread: float, p: float, k: int | None) -> None:
    input_logits = logits(6, spread)
    k_B = None if k is None else torch.full((6,), k)
    p_B = torch.full((6,), p)
    expected = ops.apply_top_k_top_p_pytorch(input_logits.clone(), None if k_B is None else k_B.clone(), p_B)
    got = nucleus(input_logits.clone(), k_B, p_B)
    # A sum of 9,000 float32 in another order moves the edge by a token at times where thousands are kept.
    differ = (got.isinf() != expected.isinf()).sum(1)
    assert (differ <= 1 + expected.isfinite().sum(1) // 500).all()
    both = got.isfinite() & expected.isfinite()
    assert torch.equal(got[both], input_logits[both])


def test_every_row_has_its_own_limits() -> None:
    input_logits, p_B, k_B = (
        logits(5, 3.0),
        torch.tensor([0.9, 1.0, 0.3, 1.0, 0.95]),
        torch.tensor([9000, 9000, 7, 5, 2]),
    )
    got = nucleus(input_logits.clone(), k_B, p_B)
    one_by_one = [
        nucleus(input_logits[i : i + 1].clone(), k_B[i : i + 1], p_B[i : i + 1])[0] for i in range(5)
    ]
    assert torch.equal(got, torch.stack(one_by_one))
    assert torch.equal(got[1], input_logits[1])
    assert got[3].isfinite().sum() == 5
    assert got[4].isfinite().sum() <= 2


def test_equal_logits_at_the_edge_of_top_k_stay_together() -> None:
    input_logits = torch.zeros(1, 1000)
    input_logits[0, 3] = 5.0
    k_B, p_B = torch.tensor([2]), torch.tensor([0.999])
    expected = ops.apply_top_k_top_p_pytorch(input_logits.clone(), k_B.clone(), p_B)
    got = nucleus(input_logits.clone(), k_B, p_B)
    assert abs(int(got.isfinite().sum()) - int(expected.isfinite().sum())) <= 1
    assert got[0, 3] == 5.0


def test_banned_tokens_stay_banned_and_the_likeliest_always_stays() -> None:
    input_logits = logits(2, 3.0)
    input_logits[:, :8990] = -torch.inf
    got = nucleus(input_logits.clone(), None, torch.tensor([0.0, 0.9999999]))
    assert got[0].isfinite().sum() == 1
    assert got[0].argmax() == input_logits[0].argmax()
    assert torch.equal(got[1].isfinite(), input_logits[1].isfinite())


@pytest.mark.parametrize("switch", ["1", "0"])
def test_the_plugin_is_found_by_vllm_and_only_ours_use_it(switch: str) -> None:
    code = (
        "from vllm.plugins import load_general_plugins; load_general_plugins();"
        "from vllm.v1.sample.ops import topk_topp_sampler as s;"
        "from vllm.distributed.device_communicators import shm_broadcast as b;"
        "print('modules', s.apply_top_k_top_p.__module__, b.SpinCondition.__module__)"
    )
    env = os.environ | {CPU_ENGINE: switch}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    where = result.stdout.rsplit("modules ", 1)[-1].split()
    assert all((name == "serve.engine.vllm_cpu_plugin") == (switch == "1") for name in where), result.stderr
    assert len(where) == 2


def test_a_lost_notification_costs_milliseconds() -> None:
    """vLLM waits five seconds for a message whose notification was lost; nothing is written here at all."""
    code = (
        "import time, zmq; from vllm.plugins import load_general_plugins; load_general_plugins();"
        "from vllm.distributed.device_communicators import shm_broadcast as b;"
        "from vllm.utils.network_utils import get_open_zmq_ipc_path as path;"
        "reader = b.SpinCondition(is_reader=True, context=zmq.Context(), notify_address=path());"
        "began = time.monotonic(); reader.wait(5000); print('waited', time.monotonic() - began)"
    )
    env = os.environ | {CPU_ENGINE: "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    waited = result.stdout.rsplit("waited ", 1)[-1]
    assert waited, result.stderr
    assert float(waited) < 2.5
