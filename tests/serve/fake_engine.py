"""Fake vLLM engine for the API server: `fake_engine.py PORT|SOCKET [FAULT]`, standard library only.

`POST /fault {"fault": …, "times": n}` changes the fault while it runs, for the next n completions or for good;
`GET /seen` tells what it was asked; `GET /hung` counts who hung up.
"""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ADDRESS = sys.argv[1]
SAID = list(b"hello")  # as ids they are some text or other
TURN_END, END = 257, 258
hung = {"begun": 0, "abandoned": 0, "events": 0}
seen: list[dict[str, object]] = []
state = {
    "fault": sys.argv[2] if len(sys.argv) > 2 else "none",
    "times": -1,
    "running": 0,
    "most": 0,
    "probes": 0,
}
lock = threading.Lock()


def fault_of_this_request() -> str:
    with lock:
        if state["times"] == 0:
            state["fault"] = "none"
        state["times"] -= 1
        return str(state["fault"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body of an answer are two writes; Nagle would hold the second back.
    disable_nagle_algorithm = not ADDRESS.startswith("/")

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            window = 512 if state["fault"] == "short" else 1024
            return self.answer({"data": [{"id": "fake", "max_model_len": window}]})
        if self.path == "/hung":
            return self.answer(hung)
        if self.path == "/seen":
            return self.answer(
                {"pid": os.getpid(), "requests": seen, **{name: state[name] for name in ("most", "probes")}}
            )
        return self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/fault":
            state.update({"times": -1} | body)
            return self.answer({})
        if self.path == "/detokenize":
            end = "<|other|>" if state["fault"] == "tokens" else "<|endconversation|>"
            return self.answer({"prompt": f"{end}Hello, can you help me?"})
        seen.append({"headers": {name.lower(): value for name, value in self.headers.items()}, "body": body})
        with lock:
            state["running"] += 1
            state["most"] = max(state["most"], state["running"])
        try:
            self.complete(body, fault_of_this_request())
        finally:
            state["running"] -= 1
            state["probes"] += body["max_tokens"] == 1  # answered

    def complete(self, body: dict, fault: str) -> None:
        probe = body["max_tokens"] == 1
        if fault == "slow-probes" or (fault == "500-slow-probes" and probe):
            time.sleep(300 if probe else 2)
        if fault == "hang" or (fault == "hang-turns" and not probe):
            return self.hang()
        if fault in ("500", "500-slow-probes"):
            return self.answer({"error": {"message": "secret words", "code": 500}}, status=500)
        if fault == "503":
            return self.answer({"error": {"message": "secret words", "code": 503}}, status=503)
        if fault == "400":
            return self.answer({"error": {"message": "secret words", "code": 400}}, status=400)
        if fault == "garbage":
            return self.answer({"choices": [{"index": 0}]})
        if fault == "not-json":
            return self.raw(b"<html>secret words</html>")
        if fault == "die":
            os.killpg(0, signal.SIGKILL)
        if fault == "disconnect":
            return self.cut()
        if fault.startswith("take-") and not probe:
            time.sleep(float(fault.removeprefix("take-")))
        if body.get("stream"):
            return self.stream(body, fault)
        choices = [self.choice(body, index, fault) for index in range(body.get("n", 1))]
        answer = json.dumps({"choices": choices[:-1] if fault == "fewer" else choices}).encode()
        if fault == "cut":
            return self.cut(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer[:40])
        return self.raw(answer)

    def choice(self, body: dict, index: int, fault: str) -> dict[str, object]:
        # A named model says its name, so that a test sees who spoke.
        text_ids = list(str(body["model"]).encode()) if body.get("model") else SAID
        ids = [*text_ids, TURN_END][: body["max_tokens"]]
        watched = body.get("logprob_token_ids", [END])[0]
        tops = [{f"token_id:{watched}": -3.0, f"token_id:{ids[0]}": -1.0}] + [{} for _ in ids[1:]]
        return {
            "index": index,
            "token_ids": ids,
            "finish_reason": "abort" if fault == "abort" else "stop",
            "logprobs": {"token_logprobs": [-1.0] * len(ids), "top_logprobs": tops},
        }

    def stream(self, body: dict, fault: str) -> None:
        """One token per event. `stream-cut`, `stream-error` and `stream-abort` come after the second."""
        whole = self.choice(body, 0, "none")
        ids, tops = whole["token_ids"], whole["logprobs"]["top_logprobs"]  # type: ignore[index]
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        self.close_connection = True
        while fault == "stream-endless":
            self.event(self.token(ids[0], tops[0], None))
            hung["events"] += 1
        for place, token in enumerate(ids):
            if place == 2 and fault == "stream-die":
                os.killpg(0, signal.SIGKILL)
            if place == 2 and fault == "stream-cut":
                return
            if place == 2 and fault == "stream-hang":
                return self.hang()
            if place == 2 and fault == "stream-error":
                self.event({"error": {"message": "secret words", "code": 500}})
                return self.event("[DONE]")
            last = place == len(ids) - 1
            finish = ("abort" if fault == "stream-abort" else "stop") if last else None
            self.event(self.token(token, tops[place], finish))
            time.sleep(0.02)
        self.event("[DONE]")

    def token(self, token: int, tops: dict, finish: str | None) -> dict[str, object]:
        logprobs = {"token_logprobs": [-1.0], "top_logprobs": [tops]}
        choice = {"index": 0, "token_ids": [token], "finish_reason": finish, "logprobs": logprobs}
        return {"choices": [choice]}

    def event(self, value: object) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def hang(self) -> None:
        """Until the client hangs up, which is then counted."""
        hung["begun"] += 1
        self.connection.settimeout(120)
        if self.connection.recv(1) == b"":
            hung["abandoned"] += 1
        self.close_connection = True

    def cut(self, words: bytes = b"") -> None:
        self.wfile.write(words)
        self.close_connection = True

    def answer(self, value: object, *, status: int = 200) -> None:
        self.raw(json.dumps(value).encode(), status=status)

    def raw(self, text: bytes, *, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024


def main() -> None:
    if state["fault"] == "no-start":
        print("loading the weights of something", flush=True)
        sys.exit("ValueError: there is not enough memory for this model")
    if str(state["fault"]).startswith(
        "damaged:"
    ):  # damaged:FOLDER, as vLLM where a kill left half a kernel there
        kernel = f"{str(state['fault']).partition(':')[2]}/inductor_cache/p2/k.main.so"
        if Path(kernel).exists():
            print(
                f"ERROR torch._inductor.exc.InductorError: ImportError: {kernel}: file too short", flush=True
            )
            print(
                f"RuntimeError: Worker failed with error 'ImportError: {kernel}: file too short'", flush=True
            )
            time.sleep(600)
    if state["fault"] == "failed-core":
        print("ERROR EngineCore failed to start.", flush=True)
        time.sleep(600)
    if state["fault"] == "never-ready":
        time.sleep(600)
    # Like vLLM's core: a child that does not notice by itself that its parent is gone.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"child {child.pid}", flush=True)
    if ADDRESS.startswith("/"):
        UnixServer(ADDRESS, Handler).serve_forever()
    Server(("127.0.0.1", int(ADDRESS)), Handler).serve_forever()


main()
