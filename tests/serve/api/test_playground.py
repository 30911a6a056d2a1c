"""The page in a real browser, driven over its DevTools protocol against the real app."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from usersim.decoding.noise import sampler_seed
from usersim.testing import ScriptedSampler
from usersim.users.protocols import Draw, Sampled, SampledPiece

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SHOTS = Path(__file__).parents[3] / "build" / "playground"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]
WAIT_S = 120
"""A browser on a busy machine is slow to start."""
WIDE, PHONE = (1280, 900), (390, 844)

browser_needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


# -- the page as a response ----------------------------------------------------------------------------


def test_the_page_stands_alone_and_trusts_no_other_host(start_server, http: httpx2.Client) -> None:
    response = http.get(start_server(ScriptedSampler()) + "/playground")
    assert response.headers["content-type"].startswith("text/html")
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert "src=" not in response.text


def test_a_models_name_cannot_become_markup(start_server, http: httpx2.Client) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    page = http.get(start_server(ScriptedSampler(), names=[name]) + "/playground").text
    assert "<img" not in page
    facts = page.split('id="facts">')[1].split("</script>")[0]
    assert json.loads(facts)["models"][0] == name


# -- a browser -----------------------------------------------------------------------------------------


class Tab:
    """One page of the browser; `problems` are what its console complained about."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.count, self.problems = socket, 0, list[str]()

    async def call(self, method: str, **params: Any) -> Any:
        self.count += 1
        await self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(await self.socket.recv())
            self._note(message)
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.problems.append(message["params"]["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(message["params"]["exceptionDetails"]))

    async def open(self, url: str, size: tuple[int, int] = WIDE, *, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.resize(size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && typeof facts === 'object'")

    async def resize(self, size: tuple[int, int]) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)

    async def js(self, expression: str) -> Any:
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while not await self.js(f"Boolean({expression})"):
                await asyncio.sleep(0.05)

    async def idle(self) -> None:
        await self.until("busy === null")

    async def click(self, selector: str) -> None:
        await self.js(f"document.querySelector({selector!r}).click()")

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        down = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        for event in (down, {"type": "keyUp"}):
            await self.call("Input.dispatchKeyEvent", key=key, code=key, windowsVirtualKeyCode=code, **event)

    async def texts(self, selector: str) -> list[str]:
        texts: list[str] = await self.js(
            f"[...document.querySelectorAll({selector!r})].map((element) => element.textContent)"
        )
        return texts

    async def shoot(self, name: str) -> Path:
        # Two frames: the last change is on the screen only then.
        await self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        path.write_bytes(base64.b64decode(shot["data"]))
        return path


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    """The address of its DevTools socket."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "DevTools listening on" in line:
                    yield line.split()[-1]
                    break
            else:
                pytest.fail("Chromium did not start")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@contextlib.asynccontextmanager
async def tab(browser: str) -> AsyncIterator[Tab]:
    websockets = pytest.importorskip("websockets", reason="drives the browser")
    base = browser.split("/devtools/")[0].replace("ws://", "http://")
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
        opened = (await client.put(f"{base}/json/new?about:blank")).json()
        connect = websockets.connect(
            opened["webSocketDebuggerUrl"], max_size=None, open_timeout=WAIT_S, proxy=None
        )
        async with connect as socket:
            yield Tab(socket)
        await client.get(f"{base}/json/close/{opened['id']}")


class Slow(ScriptedSampler):
    """Speaks a token every few milliseconds, so that the page can be seen half-way."""

    def __init__(self, *lines: list[int], pause_s: float = 0.02, end_probability: float = 0.1) -> None:
        super().__init__(*lines, end_probability=end_probability)
        self.pause_s = pause_s

    async def stream(self, request: Draw) -> Any:
        async for piece in super().stream(request):
            yield piece
            await asyncio.sleep(self.pause_s)


HOSTILE = "<img src=x onerror=document.title='owned'> & co"


@browser_needed
def test_a_visitor_talks_resamples_and_chooses(
    start_server, browser: str, words: Callable[[str], list[int]]
) -> None:
    sampler = Slow(
        words("hey, need a cheap weekend trip for 2, by train. ideas?"),
        words("hm which one is cheaper"),
        words("ok and where would we stay"),
        words(HOSTILE),
        [258],
        words("sounds good but pricey"),
        [258],
        end_probability=0.07,
    )
    url = start_server(sampler)

    async def visit() -> None:
        async with tab(browser) as page:
            await page.open(f"{url}/playground")
            await page.click("#speak")
            await page.until("document.querySelector('.streaming .text')?.textContent.startsWith('hey, n')")
            assert "P(end) 7.0 %" in (await page.texts(".streaming .facts"))[0]
            await page.idle()
            assert await page.texts(".turn.user .text") == [
                "hey, need a cheap weekend trip for 2, by train. ideas?"
            ]
            await page.js("document.getElementById('reply').focus()")
            await page.type("Ghent or Lille are both under 60 euro return.")
            await page.press("Enter", 13)
            await page.until("messages.length === 3")
            await page.idle()
            await page.click("#resample")
            await page.until("document.querySelectorAll('.card').length === 4")
            await page.idle()
            bubbles = [
                "ok and where would we stay",
                HOSTILE,
                "leaves the conversation",
                "sounds good but pricey",
            ]
            assert await page.texts(".card .text") == bubbles
            await page.shoot("wide")
            await page.click(".card:nth-child(4) button")
            assert (await page.texts(".turn.user .text"))[1] == "sounds good but pricey"
            assert await page.js("document.getElementById('alternatives').hidden")
            assert await page.js("document.title") == "User LM playground"
            await page.js("document.getElementById('reply').focus()")
            await page.type("Take the hostel, then.")
            await page.press("Enter", 13)
            await page.until("ended()")
            await page.idle()
            assert (await page.texts(".turn.user .text"))[-1] == "leaves the conversation"
            assert await page.js("document.getElementById('reply').disabled")
            assert page.problems == []

    asyncio.run(visit())
    history = [request.prompt_ids for request in sampler.asked]
    assert list(history[1]) == list(history[2]), "alternatives are drawn for the same situation"


@browser_needed
def test_what_the_visitor_sets_is_what_is_asked_and_copied(
    start_server, browser: str, words: Callable[[str], list[int]]
) -> None:
    sampler = ScriptedSampler(words("one"))
    url = start_server(sampler)

    async def visit() -> tuple[str, str]:
        async with tab(browser) as page:
            await page.open(f"{url}/playground")
            values = {
                "goal": 'it\'s a "test"',
                "persona": "terse",
                "temperature": 0.5,
                "top_k": 30,
                "seed": 7,
            }
            for field, value in values.items():
                await page.js(f"document.getElementById({field!r}).value = {json.dumps(value)}")
            await page.click("#style-questions-on")
            await page.js("document.getElementById('style-questions').value = 1")
            await page.click("#speak")
            await page.until("messages.length === 1")
            await page.js("for (const each of document.querySelectorAll('details')) each.open = true")
            await page.shoot("settings")
            await page.click("#curl")
            await page.until("document.getElementById('code').open")
            curl = await page.js("document.getElementById('source').value")
            await page.press("Escape", 27)
            await page.until("!document.getElementById('code').open")
            await page.click("#python")
            await page.until("document.getElementById('code').open")
            assert page.problems == []
            return curl, await page.js("document.getElementById('source').value")

    curl, python = asyncio.run(visit())
    (request,) = sampler.asked
    assert request.seed == sampler_seed(7, request.prompt_ids, common=False)
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 30)
    commands = [[sys.executable, "-c", python]]
    if shutil.which("curl"):
        commands.append(["bash", "-c", curl])
    for command in commands:
        sampler.continuations.append(words("one"))
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert "one" in done.stdout, done.stderr
    first, *copies = sampler.asked
    assert len(copies) == len(commands)
    for copied in copies:
        assert list(copied.prompt_ids) == list(first.prompt_ids)
        assert (copied.seed, copied.sampling) == (first.seed, first.sampling)


@browser_needed
def test_errors_are_shown_and_can_be_tried_again(
    start_server, browser: str, words: Callable[[str], list[int]]
) -> None:
    class Breaking(ScriptedSampler):
        async def stream(self, request: Draw) -> Any:
            if not self.asked:
                self.asked.append(request)
                yield SampledPiece(list(b"half a"), [-1.0] * 6, 0.1, False)
                raise ZeroDivisionError
            async for piece in super().stream(request):
                yield piece

        async def sample(self, request: Draw) -> list[Sampled]:
            return await super().sample(request)

    url = start_server(Breaking(words("whole")))

    async def visit() -> None:
        async with tab(browser) as page:
            await page.open(f"{url}/playground")
            await page.click("#speak")
            await page.until("!document.getElementById('problem').hidden")
            await page.idle()
            assert "error in the server" in (await page.texts("#problem"))[0]
            assert await page.texts(".turn") == []
            await page.click("#speak")
            await page.until("messages.length === 1")
            assert await page.js("document.getElementById('problem').hidden")

    asyncio.run(visit())


@browser_needed
def test_a_stream_is_stopped_by_escape_and_the_engine_with_it(
    start_server, browser: str, words: Callable[[str], list[int]]
) -> None:
    sampler = Slow(words("on and on " * 200), pause_s=0.05)
    url = start_server(sampler)

    async def visit() -> None:
        async with tab(browser) as page:
            await page.open(f"{url}/playground")
            await page.click("#speak")
            await page.until("document.querySelector('.streaming .text')?.textContent.length > 5")
            await page.press("Escape", 27)
            await page.idle()
            assert await page.texts(".turn") == []
            async with asyncio.timeout(WAIT_S):
                while not sampler.closed_early:
                    await asyncio.sleep(0.05)

    asyncio.run(visit())


@browser_needed
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_readable_on_a_phone_and_by_keyboard(
    start_server, browser: str, words: Callable[[str], list[int]], dark: bool
) -> None:
    url = start_server(ScriptedSampler(words("need 2 cheap tickets"), words("no " + "x" * 80)))

    async def visit() -> None:
        async with tab(browser) as page:
            await page.open(f"{url}/playground", PHONE, dark=dark)
            await page.js("document.getElementById('speak').focus()")
            await page.press("Enter", 13)
            await page.until("messages.length === 1")
            await page.idle()
            assert await page.js("document.activeElement.id") == "reply", "one can type at once"
            await page.type("To Ghent?")
            await page.press("Enter", 13)
            await page.until("messages.length === 3")
            await page.idle()
            await page.shoot("phone-dark" if dark else "phone-light")
            assert await page.js("document.documentElement.scrollWidth") <= PHONE[0]
            unnamed = await page.js(
                "[...document.querySelectorAll('input, select, textarea')]"
                ".filter((field) => !field.labels.length && !field.ariaLabel"
                " && !field.getAttribute('aria-labelledby')).map((field) => field.id)"
            )
            assert unnamed == []
            back = await page.js("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, back[4:-1].split(","))) < 150) is dark

    asyncio.run(visit())
