"""The other side of benchmarks/mr.py: the released `collabllm` package scores the same candidates.

Runs in that package's own environment: `python _mr_peer.py TASK.json`, the answer on stdout as JSON. It needs
collabllm and litellm; torch and transformers, which it imports and on this path does not use, may be missing.
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


def stand_in() -> list[str]:
    """Empty modules for what is imported and never called here; their names."""
    missing = [name for name in UNUSED if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        for attribute in UNUSED[name]:
            setattr(sys.modules[name], attribute, object)
    return missing


def count_calls() -> Counter[str]:
    """Calls, failures and tokens by model from now on."""
    import litellm

    counts, plain = Counter[str](), litellm.completion

    def completion(**asked: Any) -> Any:
        counts[f"calls {asked['model']}"] += 1
        try:
            answer = plain(**asked)
        except Exception:
            counts[f"failures {asked['model']}"] += 1
            raise
        counts[f"completion_tokens {asked['model']}"] += answer.usage.completion_tokens
        return answer

    litellm.completion = completion
    return counts


def register(penalty: float) -> None:
    """Two rule-based metrics: facets named in a reply, and the words of the conversation."""
    from collabllm.metric import BaseMetric, SingleTurnOrChatMetric

    class Coverage(BaseMetric):  # type: ignore[misc]
        def score(
            self, prompt: Any, groundtruth: Any, completion: Any, messages: Any = None, metadata: Any = None
        ) -> float:
            said = " ".join(m["content"].lower() for m in messages if m["role"] == "assistant")
            served = [any(p.rstrip("*") in said for p in phrases) for phrases in metadata["phrases"]]
            return sum(served) / len(served)

    class Brevity(BaseMetric):  # type: ignore[misc]
        def score(
            self, prompt: Any, groundtruth: Any, completion: Any, messages: Any = None, metadata: Any = None
        ) -> float:
            return -min(1.0, penalty * sum(len(re.findall(r"\w+|[^\w\s]", m["content"])) for m in messages))

    SingleTurnOrChatMetric.register_metric("coverage")(Coverage)
    SingleTurnOrChatMetric.register_metric("brevity")(Brevity)


def warm(task: dict[str, Any]) -> None:
    """One turn of each side: the first call of litellm takes seconds."""
    from collabllm.modules import LLMCollaborator, UserSimulator

    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
    UserSimulator(task_desc="chat", single_turn_prompt="say hello", **task["user"])(said)
    LLMCollaborator(**task["assistant"])(said[:1])


def main(path: str) -> dict[str, Any]:
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    missing = stand_in()
    counts = count_calls()
    from collabllm.reward import multiturn_aware_reward

    register(task["token_penalty"])
    warm(task)
    counts.clear()
    contexts, messages = [], 0
    began = time.monotonic()
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
        "wall_s": time.monotonic() - began,
        "messages": messages,
        "retries": sum(n for what, n in counts.items() if what.startswith("calls")) - messages,
        "counts": dict(counts),
        "stand_ins": missing,
    }


if __name__ == "__main__":
    answer = main(sys.argv[1])
    sys.stdout.write(json.dumps(answer) + "\n")
