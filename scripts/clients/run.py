"""One conversation per real client against a running endpoint: `run.py --url http://host:8000 [--client NAME]`.

Runs in the clients' environment (requirements/clients.txt), each client in a subprocess. Prints a JSON object with the
result of each. Exit status 1 if one failed. The assistant's side of a conversation is scripted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ANSWERS = ("Sure. For how many people, and by when?", "Done: it is booked. Anything else?")
GOAL = "book a table for two on Friday evening"
GREETING = "Hi! How can I help you today?"
KEY = os.environ.get("USERSIM_API_KEY", "none")
QUIET = {
    "DEEPEVAL_TELEMETRY_OPT_OUT": "1",
    "ENABLE_COLLABLLM_LOGGING": "0",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "SCENARIO_DISABLE_SIMULATION_REPORT_INFO": "1",
}

UserTexts = list[str]
"""Texts of the simulated user's turns."""


def run_openai(url: str) -> UserTexts:
    """Runs the OpenAI client, plain and streamed, with swapped roles."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    messages: list[Any] = [{"role": "system", "content": GOAL}, {"role": "user", "content": GREETING}]
    first = client.chat.completions.create(model="userlm-flipped", messages=messages)
    texts = [first.choices[0].message.content or ""]
    messages += [{"role": "assistant", "content": texts[0]}, {"role": "user", "content": ANSWERS[0]}]
    pieces = client.chat.completions.create(model="userlm-flipped", messages=messages, stream=True)
    return [*texts, "".join(piece.choices[0].delta.content or "" for piece in pieces)]


def run_litellm(url: str) -> UserTexts:
    """Runs LiteLLM as tau-bench and tau2 do, then with the provider that ignores OpenAI's environment variables."""
    import litellm

    litellm.drop_params = True
    system = f"You are a user interacting with an agent.\n\nInstruction: {GOAL}\n\nRules:\n- Just one line."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": GREETING}]
    texts: UserTexts = []
    for provider, answer in zip(("openai", "hosted_vllm"), ANSWERS, strict=True):
        answered = litellm.completion(
            model=f"{provider}/userlm", messages=messages, api_base=f"{url}/v1", api_key=KEY, num_retries=1
        )
        texts.append(answered.choices[0].message.content)
        messages += [{"role": "assistant", "content": texts[-1]}, {"role": "user", "content": answer}]
    return texts


def run_collabllm(url: str) -> UserTexts:
    from collabllm.modules.user_simulator import UserSimulator

    user = UserSimulator(
        task_desc="book something",
        single_turn_prompt=GOAL,
        num_retries=1,
        model="openai/userlm-collabllm",
        api_base=f"{url}/v1",
        api_key=KEY,
    )
    history: list[dict[str, str]] = []
    for answer in ANSWERS:
        history.append({"role": "user", "content": user(history)})
        history.append({"role": "assistant", "content": answer})
    return [message["content"] for message in history[::2]]


def run_langwatch(url: str) -> UserTexts:
    import scenario

    class Agent(scenario.AgentAdapter):  # type: ignore[misc]
        async def call(self, input: Any) -> str:  # noqa: A002
            return ANSWERS[min(len(input.messages) // 2, 1)]

    user = scenario.UserSimulatorAgent(model="openai/userlm", api_base=f"{url}/v1", api_key=KEY)
    steps = [scenario.user(), scenario.agent(), scenario.user(), scenario.agent(), scenario.succeed()]
    run = scenario.run(name="table", description=GOAL, agents=[Agent(), user], script=steps, verbose=False)
    result = asyncio.run(run)
    assert result.success, result.reasoning
    return [str(message["content"]) for message in result.messages if message["role"] == "user"]


def run_deepeval(url: str) -> UserTexts:
    """Runs DeepEval with an expected outcome, so that its stopping judge is called too."""
    from deepeval.dataset import ConversationalGolden
    from deepeval.models import LocalModel
    from deepeval.simulator import ConversationSimulator
    from deepeval.test_case import Turn

    async def agent(input: str, turns: list[Any]) -> Any:  # noqa: A002
        return Turn(role="assistant", content=ANSWERS[min(len(turns) // 2, 1)])

    model = LocalModel(model="userlm-deepeval", base_url=f"{url}/v1", api_key=KEY, temperature=1)
    simulator = ConversationSimulator(model_callback=agent, simulator_model=model)
    golden = ConversationalGolden(
        scenario=GOAL, expected_outcome="A table is booked.", user_description="terse, lower case"
    )
    case = simulator.simulate(conversational_goldens=[golden], max_user_simulations=2)[0]
    return [turn.content for turn in case.turns if turn.role == "user"]


def run_inspect(url: str) -> UserTexts:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, get_model

    async def talk() -> UserTexts:
        user = get_model("openai-api/userlm/userlm", base_url=f"{url}/v1", api_key=KEY)
        messages: list[Any] = [ChatMessageSystem(content=GOAL), ChatMessageUser(content=GREETING)]
        texts: UserTexts = []
        for answer in ANSWERS:
            texts.append((await user.generate(messages)).completion)
            messages += [ChatMessageAssistant(content=texts[-1]), ChatMessageUser(content=answer)]
        return texts

    return asyncio.run(talk())


CLIENTS: dict[str, Callable[[str], UserTexts]] = {
    "openai": run_openai,
    "litellm": run_litellm,
    "collabllm": run_collabllm,
    "langwatch-scenario": run_langwatch,
    "deepeval": run_deepeval,
    "inspect-ai": run_inspect,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--client", action="append", choices=CLIENTS, help="may be repeated; default: all")
    parser.add_argument(
        "--timeout-s", type=float, default=300, help="time limit of each client, in seconds (default: 300)"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.client or list(CLIENTS)
    if args.here:
        sys.stdout.write("\n" + json.dumps(talk(names[0], args.url)))
        return 0
    results = {name: run_isolated(name, args.url, args.timeout_s) for name in names}
    sys.stdout.write(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return 0 if all(result["ok"] for result in results.values()) else 1


def run_isolated(name: str, url: str, timeout_s: float) -> dict[str, Any]:
    """Runs a client in its own process and folder, since clients write caches and configure logging."""
    command = [sys.executable, str(Path(__file__).resolve()), "--here", "--url", url, "--client", name]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | QUIET | {"HOME": folder, "RUN_USER_DIR": folder}
        try:
            ran = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            return {"ok": False, "error": f"no end in {timeout_s:.0f} s"}
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        return {"ok": False, "error": ran.stderr.strip()[-2000:] or f"exit status {ran.returncode}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def talk(name: str, url: str) -> dict[str, Any]:
    began = time.monotonic()
    texts = CLIENTS[name](url.rstrip("/").removesuffix("/v1"))
    return {
        "ok": bool(texts) and all(isinstance(turn, str) and turn.strip() for turn in texts),
        "version": metadata.version(name),
        "seconds": round(time.monotonic() - began, 1),
        "said": texts,
    }


if __name__ == "__main__":
    sys.exit(main())
