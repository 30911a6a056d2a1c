"""Answers like vLLM where the front looks: `fake_engine.py PORT [FAULT]`, standard library only."""

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, FAULT = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "none"
SAID = list(b"hello")  # as ids they are some text or other
TURN_END, END = 257, 258
hung = {"begun": 0, "abandoned": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            window = 512 if FAULT == "short" else 1024
            return self.answer({"data": [{"id": "fake", "max_model_len": window}]})
        if self.path == "/hung":
            return self.answer(hung)
        return self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/detokenize":
            end = "<|other|>" if FAULT == "tokens" else "<|endconversation|>"
            return self.answer({"prompt": f"{end}Hello, can you help me?"})
        if FAULT == "hang":
            return self.hang()
        if FAULT == "500":
            return self.answer({"error": {"message": "secret words", "code": 500}}, status=500)
        if FAULT == "400":
            return self.answer({"error": {"message": "secret words", "code": 400}}, status=400)
        if FAULT == "garbage":
            return self.answer({"choices": [{"index": 0}]})
        choices = [self.choice(index) for index in range(body["n"])]
        return self.answer({"choices": choices[:-1] if FAULT == "fewer" else choices})

    def choice(self, index: int) -> dict[str, object]:
        ids = [*SAID, TURN_END]
        tops = [{f"token_id:{END}": -3.0, f"token_id:{ids[0]}": -1.0}] + [{} for _ in ids[1:]]
        return {
            "index": index,
            "token_ids": ids,
            "finish_reason": "abort" if FAULT == "abort" else "stop",
            "logprobs": {"token_logprobs": [-1.0] * len(ids), "top_logprobs": tops},
        }

    def hang(self) -> None:
        """Until the client hangs up, which is then counted."""
        hung["begun"] += 1
        self.connection.settimeout(120)
        if self.connection.recv(1) == b"":
            hung["abandoned"] += 1
        self.close_connection = True

    def answer(self, value: object, *, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    if FAULT == "no-start":
        print("loading the weights of something", flush=True)
        sys.exit("ValueError: there is not enough memory for this model")
    if FAULT == "never-ready":
        time.sleep(600)
    # Like vLLM's core: a child that does not notice by itself that its parent is gone.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"child {child.pid}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()


main()
