"""Seconds for eight turns of one prompt, from `usersim serve` with its default settings.

    python benchmarks/turns.py --json-out turns.json     # two minutes on two cores, mostly the start of the engine

Every request has a new prompt, so that nothing is cached. The script starts and stops the server.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

# `serve.py` beside this file is a benchmark; import the package of the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx2

from usersim.cli import emit_json, run_main
from usersim.errors import BackendError
from usersim.weights.precision import RESTRICTIONS, precision

TURNS = 8
HISTORY = [
    {"role": "user", "content": "weekend trip ideas"},
    {"role": "assistant", "content": "Where are you based?"},
]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--requests", type=int, default=10, help="timed requests, one at a time (default: 10)"
    )
    parser.add_argument("--quick", action="store_true", help="4 requests")
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    args = parser.parse_args(argv)
    command = [sys.executable, "-m", "serve", "--port", "0", "log_requests=false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = _address(server)
            with httpx2.Client(base_url=url, timeout=300, trust_env=False) as client:
                rows = [_ask(client, number) for number in range(1 + (4 if args.quick else args.requests))][
                    1:
                ]
        finally:
            server.terminate()
            server.communicate()
    seconds = [elapsed_s for elapsed_s, _ in rows]
    figures = {
        "turns": TURNS,
        "median_s": round(statistics.median(seconds), 3),
        "range_s": [round(min(seconds), 3), round(max(seconds), 3)],
        "tokens_of_all_turns_median": statistics.median(tokens for _, tokens in rows),
        "n": len(rows),
        "precision": precision("cpu"),
        "restrictions": {name: os.environ[name] for name in RESTRICTIONS if name in os.environ},
    }
    emit_json(figures, stdout=not args.json_out, path=args.json_out)
    return 0


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line)
        if address := re.search(r"serving at (http://\S+)", line):
            return address[1]
    raise BackendError(f"the server did not start:\n{''.join(lines[-5:])}")


def _ask(client: httpx2.Client, number: int) -> tuple[float, int]:
    goal = f"plan a cheap weekend trip for {number + 2} people"
    body = {"goal": goal, "persona": "terse, lower case", "messages": HISTORY, "n": TURNS, "seed": number}
    began = time.perf_counter()
    answer = client.post("/v1/user/turns", json=body).raise_for_status().json()
    return time.perf_counter() - began, int(answer["usage"]["completion_tokens"])


if __name__ == "__main__":
    sys.exit(run_main(main))
