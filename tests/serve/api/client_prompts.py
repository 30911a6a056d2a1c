"""Prompts of the chat endpoint's clients, in the clients' formats with our own wording."""

import json
from collections.abc import Sequence

Turns = Sequence[tuple[str, str]]
"""(true role, text)"""


def tau(goal: str, *, react: bool = False) -> str:
    form = (
        "- First, think.\n\nFormat:\n\nThought:\n<the thought>\n\nUser Response:\n<what the agent is to see>"
        if react
        else "- Just write one line.\n- When the goal is met, write '###STOP###' as a standalone message."
    )
    return f"You are a user interacting with an agent.\n\nInstruction: {goal}\n\nRules:\n{form}"


def tau2(scenario: str) -> str:
    rules = (
        "# User Simulation Guidelines\nYou play a customer.\n- To finish, write the '###STOP###' token.\n"
        "- When handed over, write '###TRANSFER###'.\n- Where you know no more, write '###OUT-OF-SCOPE###'."
    )
    return f"{rules}\n\n<scenario>\n{scenario}\n</scenario>"


def tau2_instructions(reason: str, known_info: str, task: str, persona: str | None = None) -> str:
    head = f"Persona:\n\t{persona}\n" if persona else ""
    return (
        f"{head}Instructions:\n\tDomain: airline\n\tReason for call:\n\t\t{reason}\n\tKnown info:\n\t\t{known_info}\n"
        f"\tUnknown info:\n\t\tthe booking code\n\tTask instructions:\n\t\t{task}"
    )


def langwatch(description: str, persona: str | None = None) -> str:
    block = f"\n\n<persona>\n{persona}\n</persona>\n" if persona else ""
    return (
        "\n<role>\nYou are pretending to be a user, you are testing an AI Agent (shown as the user role).\n</role>\n\n"
        "<goal>\nTalk to it as a person would.\n</goal>\n\n"
        f"<scenario>\n{description}\n</scenario>\n\n<rules>\n- You are not the assistant.\n</rules>\n{block}"
    )


def collabllm(
    goal: str, turns: Turns, *, task: str = "question answering", stop: str = "[[TERMINATE CHAT]]"
) -> str:
    history = "\n".join(f"**{role.capitalize()}**: {text}" for role, text in turns)
    return (
        "You play the user.\n\nInputs:\n"
        f"<|The Start of Task Description (Not visible to the AI)|>\n{task}\n<|The End of Task Description|>\n\n"
        "<|The Start of Complete Prompt or Reference Goal (Not visible to the AI)|>\n"
        f"{goal}\n<|The End of Complete Prompt or Reference Goal|>\n\n"
        f"<|The Start of Chat History|>\n{history}\n<|The End of Chat History|>\n\n\n"
        "## Output Format:\nA JSON object with current_answer, thought and response.\n"
        f'- Use "{stop}" as your response when you have what you wanted.\n'
    )


def lost_in_conversation(turns: Turns, revealed: Sequence[dict], hidden: Sequence[dict]) -> str:
    transcript = "\n\n".join(f"[{role}] {text}" for role, text in turns)
    return (
        "You are simulating a user of an interactive LLM system (like ChatGPT).\nThe user is lazy.\n\n"
        f"Here's the conversation so far:\n{transcript}\n\n"
        f"Here are the hints that have already been revealed:\n{json.dumps(revealed)}\n\n"
        f"Here are all the hints that have not been revealed yet:\n{json.dumps(hidden)}\n\n"
        'You must answer now.\nFor example:\n{"response": "I don\'t know", "shard_id": -1}'
    )


def deepeval(scenario: str | None, persona: str | None = None, turns: Turns | None = None) -> str:
    pad = " " * 12
    block = f"<persona>\n{pad}{persona}\n{pad}</persona>" if persona else ""
    items = [{"role": role, "content": text, "user_id": None} for role, text in turns or ()]
    history = f"Previous Conversation:\n{pad}{json.dumps(items, indent=4, ensure_ascii=False)}\n\n{pad}"
    return (
        f"Pretend you are a user of an LLM app. Write the next input.\n\n{pad}Example Language: english\n"
        f"{pad}Example Persona:\n{pad}<persona>\n{pad}A patient.\n{pad}</persona>\n"
        f'{pad}Example Scenario: "Somebody is ill."\n{pad}Example Previous Conversation:\n{pad}[]\n'
        f'{pad}Example JSON Output:\n{pad}{{"simulated_input": "Hi"}}\n\n{pad}Language: English\n{pad}{block}\n'
        f'{pad}Scenario: "{scenario}"\n{pad}{history if turns is not None else ""}JSON Output:\n'
    )


def deepeval_judge(outcome: str, turns: Turns) -> str:
    items = [{"role": role, "content": text} for role, text in turns]
    return (
        "You are a Conversation Completion Checker.\nDecide.\n\n"
        'Example Expected Outcome: "It is done."\nExample Conversation History:\n[]\n\n'
        f'Expected Outcome: "{outcome}"\nConversation History:\n{json.dumps(items, indent=4)}\nJSON Output:\n'
    )


def azure(task: str | None, turns: Turns, action: str = "go on by asking relevant questions") -> str:
    return (
        f"You should behave as a user who is planning to accomplish this task: {task} and you continue to interact "
        "with a system that responds to your queries.\nOutput must be in JSON format\n\n"
        "Output with a json object that continues the conversation, given the conversation history:\n"
        f"{[{'role': role, 'content': text} for role, text in turns]}\n\n{action}\n"
    )
