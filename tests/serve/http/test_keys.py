import hashlib
import time
import tomllib
from pathlib import Path

import httpx2
import pytest

from serve.config import ApiKey, KeyFile, ServeConfig
from serve.http import quota
from serve.http.keys import KeyRing, load_keys, main
from serve.http.quota import TokenBucket
from tests.serve.engines import eventually
from usersim.errors import ConfigError
from usersim.testing import ScriptedSampler

SECRET = "userlm-a-key-of-alice"


def key(secret: str = SECRET, name: str = "alice", **quotas: int) -> ApiKey:
    return ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), **quotas)


def ask(http: httpx2.Client, url: str, secret: str | None = SECRET) -> httpx2.Response:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return http.post(f"{url}/v1/user/turns", json={}, headers=headers)


def metrics(http: httpx2.Client, url: str) -> str:
    return http.get(f"{url}/metrics").text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": SECRET},
        {"Authorization": f"Bearer {SECRET}x"},
        {"Authorization": f"Bearer {key().sha256}"},
        [("Authorization", f"Bearer {SECRET}"), ("Authorization", "Bearer wrong")],
        [("Authorization", f"Bearer {SECRET}"), ("Authorization", f"Bearer {SECRET}")],
        {"Authorization": b"Bearer \xff\xfe"},
    ],
    ids=["none", "wrong", "basic", "bare", "longer", "hash", "two", "twice", "bytes"],
)
def test_without_the_key_every_request_is_refused_in_the_same_words(start_server, http, headers) -> None:
    url = start_server(ScriptedSampler(), keys=(key(),))
    answers = [
        http.post(f"{url}/v1/user/turns", json={}, headers=headers),
        http.get(f"{url}/v1/models", headers=headers),
        http.get(f"{url}/nowhere", headers=headers),
    ]
    bodies = {answer.content for answer in answers}
    assert {answer.status_code for answer in answers} == {401}
    assert len(bodies) == 1
    assert answers[0].json()["error"]["code"] == "invalid_api_key"
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}


def test_with_the_key_one_is_served_and_counted_by_name(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words("hi")), keys=(key(), key("other", "bob")))
    assert ask(http, url).status_code == 200
    assert ask(http, url, "guess").status_code == 401
    counted = ('{key="alice",outcome="ok"} 1.0', '{key="invalid",outcome="refused"} 1.0')
    # Counted once the answer is out: the next request may overtake the count.
    eventually(lambda: all(f"usersim_key_requests_total{each}" in metrics(http, url) for each in counted))
    assert SECRET not in metrics(http, url)


def test_what_machines_ask_is_open_and_metrics_only_while_they_are_not_protected(start_server, http) -> None:
    url = start_server(ScriptedSampler(), keys=(key(),))
    for path in ("/health", "/ready", "/version", "/openapi.json", "/docs", "/metrics"):
        assert http.get(url + path).status_code == 200
    document = http.get(f"{url}/openapi.json").json()
    assert document["paths"]["/v1/user/turns"]["post"]["security"] == [{"HTTPBearer": []}]
    protected = start_server(ScriptedSampler(), keys=(key(),), protect_metrics=True)
    assert http.get(f"{protected}/metrics").status_code == 401
    allowed = http.get(f"{protected}/metrics", headers={"Authorization": f"bearer {SECRET}"})
    assert allowed.status_code == 200


def whose(ring: KeyRing, secret: str) -> str | None:
    match = ring.find([(b"authorization", f"Bearer {secret}".encode())])
    return match and match[0]


def test_a_changed_ring_takes_new_keys_and_drops_old_ones_but_goes_on_counting() -> None:
    ring = KeyRing((key("old", requests_per_minute=2),))
    assert (whose(ring, "old"), whose(ring, "new")) == ("alice", None)
    assert ring.quotas["alice"].admit() == 0
    ring.replace((key("old", requests_per_minute=2), key("new", requests_per_minute=2)))
    assert whose(ring, "old") == whose(ring, "new") == "alice"
    ring.replace((key("new", requests_per_minute=2),))
    assert whose(ring, "old") is None
    assert ring.quotas["alice"].admit() == 0
    assert ring.quotas["alice"].admit() > 0  # the third in this minute, whatever the key
    ring.replace((key("new", requests_per_minute=3),))
    assert ring.quotas["alice"].admit() == 0
    ring.replace((), is_open=True)
    assert not ring.is_open, "having no key left opens nothing"
    ring.replace((), is_open=True, open_access=True)
    assert ring.is_open
    ring.replace((key(),), is_open=True, open_access=True)
    assert not ring.is_open


def test_an_open_ring_stays_open_until_there_is_a_key() -> None:
    ring = KeyRing((), is_open=True)
    ring.replace((), is_open=True)
    assert ring.is_open
    ring.replace((), is_open=False)  # a `keys_file` was named, and is empty
    assert not ring.is_open


@pytest.mark.parametrize(
    "empty", [{"keys_file": "{}/keys.toml"}, {"host": "0.0.0.0"}], ids=["an empty file", "another host"]
)
def test_an_empty_configuration_opens_nothing(
    start_server, http, tmp_path: Path, empty: dict[str, str]
) -> None:
    (tmp_path / "keys.toml").write_text("keys = []\n", encoding="utf-8")
    url = start_server(ScriptedSampler(), **{name: value.format(tmp_path) for name, value in empty.items()})
    assert ask(http, url).status_code == ask(http, url, None).status_code == 401


def test_open_access_is_for_everybody_under_every_name(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words("hi")), host="0.0.0.0", open_access=True)
    answer = http.post(f"{url}/v1/user/turns", json={}, headers={"Host": "example.org"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost.", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("user.localhost", 200),
        ("rebound.example:8000", 421),
        ("localhost.example", 421),
        ("127.0.0.1.example", 421),
        ("[2001:db8::1]", 421),
        ("", 421),
    ],
)
def test_a_keyless_server_of_ones_own_machine_answers_to_no_other_name(
    start_server, http, host, status
) -> None:
    url = start_server(ScriptedSampler())
    for path in ("/v1/models", "/health", "/playground"):
        assert http.get(url + path, headers={"Host": host}).status_code == status


def test_with_keys_a_proxy_may_pass_its_name_on(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words("hi")), keys=(key(),))
    headers = {"Host": "example.org", "Authorization": f"Bearer {SECRET}"}
    assert http.post(f"{url}/v1/user/turns", json={}, headers=headers).status_code == 200


def remaining(answer: httpx2.Response, kind: str) -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{kind}"])


def test_a_batch_counts_as_its_items_and_n_as_n(start_server, http, words, monkeypatch) -> None:
    url = start_server(ScriptedSampler(*[words("hi")] * 4), keys=(key(requests_per_minute=600),))
    headers = {"Authorization": f"Bearer {SECRET}"}
    amounts: list[float] = []
    monkeypatch.setattr(TokenBucket, "take", lambda _, amount: amounts.append(amount))
    items = [{}, {"n": 3}, {"n": "bad"}]
    answer = http.post(f"{url}/v1/user/turns/batch", json={"items": items}, headers=headers)
    assert [result["status"] for result in answer.json()["results"]] == [200, 200, 400]
    assert sum(amounts) == 1 + 3 + 1


def test_a_large_batch_uses_the_minute_up(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(*[words("hi")] * 64), keys=(key(requests_per_minute=60),))
    headers = {"Authorization": f"Bearer {SECRET}"}
    answer = http.post(f"{url}/v1/user/turns/batch", json={"items": [{"n": 16}] * 4}, headers=headers)
    assert answer.status_code == 200
    assert remaining(answer, "requests") == 0
    assert ask(http, url).status_code == 429


def test_a_refused_body_costs_what_it_would_have_as_a_prompt(start_server, http) -> None:
    url = start_server(ScriptedSampler(), keys=(key(tokens_per_minute=20_000),))
    headers = {"Authorization": f"Bearer {SECRET}"}
    bad = {"goal": ["x" * 100_000]}
    first, second = (http.post(f"{url}/v1/user/turns", json=bad, headers=headers) for _ in range(2))
    assert (first.status_code, remaining(first, "tokens")) == (400, 0)  # 25,000 of 20,000
    assert second.status_code == 429


def test_more_requests_than_the_quota_are_told_when_to_come_back(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words("hi")), keys=(key(requests_per_minute=1),))
    responses = [ask(http, url) for _ in range(2)]
    assert [answer.status_code for answer in responses] == [200, 429]
    assert responses[1].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(responses[1].headers["retry-after"]) <= 60
    assert responses[0].headers["x-ratelimit-limit-requests"] == "1"
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in responses] == ["0", "0"]


def test_tokens_are_charged_when_they_are_known(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words("hello there")), keys=(key(tokens_per_minute=10),))
    first = ask(http, url)
    assert first.json()["usage"]["total_tokens"] > 60  # more than six minutes' worth
    assert first.headers["x-ratelimit-limit-tokens"] == "10"
    second = ask(http, url)
    assert second.status_code == 429
    assert second.headers["x-ratelimit-remaining-tokens"] == "0"
    assert int(second.headers["retry-after"]) == 120  # the most that clients obey


def test_a_bucket_fills_with_the_monotonic_clock_and_never_overflows(monkeypatch) -> None:
    now = 1000.0
    monkeypatch.setattr(quota.time, "monotonic", lambda: now)
    bucket = TokenBucket(60)
    bucket.take(60)
    assert bucket.wait_s() == pytest.approx(1.0)
    now += 0.5
    assert bucket.wait_s() == pytest.approx(0.5)
    bucket.take(10)
    assert bucket.wait_s() == pytest.approx(10.5)
    now += 3600
    assert (bucket.wait_s(60), bucket.level) == (0, 60)


def test_keys_come_from_the_config_and_from_a_file(tmp_path: Path, capsys) -> None:
    assert main(["bob", "--requests-per-minute", "30"]) == 0
    captured = capsys.readouterr()
    secret, table = captured.err.strip(), captured.out
    assert secret not in table
    key_file = KeyFile.model_validate(tomllib.loads(table))
    assert key_file.keys[0].sha256 == hashlib.sha256(secret.encode()).hexdigest()
    path = tmp_path / "keys.toml"
    path.write_text(table, encoding="utf-8")
    keys = load_keys(ServeConfig(keys=(key(),), keys_file=str(path)))
    assert [(each.name, each.requests_per_minute) for each in keys] == [("alice", None), ("bob", 30)]
    with pytest.raises(ConfigError, match="bob has two different quotas"):
        load_keys(ServeConfig(keys=(key(name="bob"),), keys_file=str(path)))
    with pytest.raises(ConfigError, match="no such"):
        load_keys(ServeConfig(keys_file=str(tmp_path / "nowhere.toml")))
    with pytest.raises(ConfigError, match="name"):
        main(["two words"])


def test_no_key_is_found_sooner_than_another() -> None:
    """Every known hash is compared, in constant time each: hits cost what misses cost."""
    ring = KeyRing(tuple(key(f"secret {number}", f"n{number}") for number in range(2000)))

    def seconds(secret: str) -> float:
        headers, best = [(b"authorization", f"Bearer {secret}".encode())], 1e9
        for _ in range(7):
            began = time.process_time()
            ring.find(headers)
            best = min(best, time.process_time() - began)
        return best

    first, miss = seconds("secret 0"), seconds("none of them")
    assert first > 0.3 * miss
