"""Peer side of benchmarks/mr.py: the released `collabllm` package scores the same candidates.

Runs in the package's own environment: `python _mr_peer.py TASK.json` prints the result on stdout as JSON. It needs
collabllm and litellm; torch and transformers, which it imports and does not use here, may be missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

os.environ |= {"ENABLE_COLLABLLM_LOGGING": "0", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
UNUSED = {
    "torch": (),
    "transformers": (
        "AutoModelForCausalLM",
        "AutoTokenizer",
        "PreTrainedModel",
        "PreTrainedTokenizerBase",
        "pipeline",
    ),
}


def install_stubs() -> list[str]:
    """Installs empty modules for missing imports that are never called; returns their names."""
    missing = [name for name in UNUSED if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        for attribute in UNUSED[name]:
            setattr(sys.modules[name], attribute, object)
    return missing


def count_calls() -> Counter[str]:
    """Starts to count calls, failures and tokens by model; returns the counter."""
    import litellm

    counts, original = Counter[str](), litellm.completion

    def completion(**request: Any) -> Any:
        counts[f"calls {request['model']}"] += 1
        try:
            answer = original(**request)
        except Exception:
            counts[f"failures {request['model']}"] += 1
            raise
        counts[f"completion_tokens {request['model']}"] += answer.usage.completion_tokens
        return answer

    litellm.completion = completion
    return counts


def register(penalty: float) -> None:
    """Registers two rule-based metrics: coverage of facets in the replies, and brevity of the conversation."""
    from collabllm.metric import BaseMetric, SingleTurnOrChatMetric

    class Coverage(BaseMetric):  # type: ignore[misc]
        def score(
            self, prompt: Any, groundtruth: Any, completion: Any, messages: Any = None, metadata: Any = None
        ) -> float:
            replies = " ".join(m["content"].lower() for m in messages if m["role"] == "assistant")
            is_covered = [any(p.rstrip("*") in replies for p in phrases) for phrases in metadata["phrases"]]
            return sum(is_covered) / len(is_covered)

    class Brevity(BaseMetric):  # type: ignore[misc]
        def score(
            self, prompt: Any, groundtruth: Any, completion: Any, messages: Any = None, metadata: Any = None
        ) -> float:
            return -min(1.0, penalty * sum(len(re.findall(r"\w+|[^\w\s]", m["content"])) for m in messages))

    SingleTurnOrChatMetric.register_metric("coverage")(Coverage)
    SingleTurnOrChatMetric.register_metric("brevity")(Brevity)


def warm_up(task: dict[str, Any]) -> None:
    """Generates one turn of each side; the first call of litellm takes seconds."""
    from collabllm.modules import LLMCollaborator, UserSimulator

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
    UserSimulator(task_desc="chat", single_turn_prompt="say hello", **task["user"])(turns)
    LLMCollaborator(**task["assistant"])(turns[:1])


def main(path: str) -> dict[str, Any]:
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    missing = install_stubs()
    counts = count_calls()
    from collabllm.reward import multiturn_aware_reward

    register(task["token_penalty"])
    warm_up(task)
    counts.clear()
    contexts, messages = [], 0
    start_s = time.monotonic()
    for context in task["contexts"]:
        started, rewards = time.monotonic(), []
        for candidate in context["candidates"]:
            history = [*context["messages"], {"role": "assistant", "content": candidate}]
            reward, sessions = multiturn_aware_reward(
                task_desc="everyday questions to an assistant",
                single_turn_prompt=context["goal"],
                single_turn_completion="",
                metric_names=["coverage", "brevity"],
                metric_weights=[1.0, 1.0],
                metadata={"phrases": context["phrases"]},
                chat_history=history,
                assistant_generation_kwargs=task["assistant"],
                user_generation_kwargs=task["user"],
                num_samples=task["n"],
                max_new_turns=2 * task["w"],
                return_details=True,
                verbose=False,
            )
            rewards.append(reward["MR"])
            messages += sum(len(session) - len(history) for session in sessions)
        contexts.append({"id": context["id"], "seconds": time.monotonic() - started, "rewards": rewards})
    return {
        "contexts": contexts,
        "wall_s": time.monotonic() - start_s,
        "messages": messages,
        "retries": sum(n for name, n in counts.items() if name.startswith("calls")) - messages,
        "counts": dict(counts),
        "stand_ins": missing,
    }


if __name__ == "__main__":
    answer = main(sys.argv[1])
    sys.stdout.write(json.dumps(answer) + "\n")
