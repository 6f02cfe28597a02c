"""Answers from a server: the right route and request, bounded patience, nothing lost, no key shown or passed on."""

import pytest
import talker
from stand_in import chat, completion, served
from talker import rows_of

from expo.generate import Sampling, generate
from expo.generate.endpoint import Endpoint, EndpointError, base_url, shown_url

GREEDY = Sampling(max_tokens=5)
THREE = Sampling(samples=3, temperature=1.0, max_tokens=5, stop=("\n",), seed=4)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No wait between attempts, and no key of the machine's."""
    monkeypatch.setattr(Endpoint.__new__, "__defaults__", (5.0, 3, 0.0))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(server, tmp_path, *, sampling=GREEDY, questions=talker.QUESTIONS, **how):
    report = generate("m", questions, tmp_path / "a.jsonl", sampling=sampling, endpoint=server.url, **how)
    return report, rows_of(tmp_path / "a.jsonl")


def test_plain_prompts_ask_for_all_samples_in_one_request(tmp_path):
    with served(lambda route, body, n: (200, {}, completion(*(f"{body['prompt']}{i}\nx" for i in range(3))))) as server:
        _, rows = ask(server, tmp_path, sampling=THREE)
    assert [row["response"] for row in rows[:3]] == [f"{talker.QUESTIONS[0]['prompt']}{i}" for i in range(3)]
    assert [(row["id"], row["sample"]) for row in rows] == [(q["id"], s) for q in talker.QUESTIONS for s in range(3)]
    assert len(server.requests) == 11
    route, _, body = server.requests[0]
    assert route == "/v1/completions"
    assert body.pop("seed") >= 0 and body.pop("prompt")
    expected = {"model": "m", "n": 3, "max_tokens": 5, "temperature": 1.0, "top_p": 1.0, "stop": ["\n"]}
    assert body == expected


def test_messages_go_to_the_chat_route(tmp_path):
    with served(lambda route, body, n: (200, {}, chat(route))) as server:
        _, rows = ask(server, tmp_path, questions=[{"id": 1, "question": "hi?"}], chat=True)
    assert rows[0]["response"] == "/v1/chat/completions" and rows[0]["n_tokens"] is None
    assert server.requests[0][2]["messages"] == [{"role": "user", "content": "hi?"}]


@pytest.mark.parametrize("asked", [7, None, "7", True])
def test_the_tokens_that_a_server_read_are_kept_where_it_tells_them(tmp_path, asked):
    usage = {"usage": {"prompt_tokens": asked, "completion_tokens": 2}}
    with served(lambda route, body, n: (200, {}, chat("yes") | usage)) as server:
        _, rows = ask(server, tmp_path, questions=[{"id": 1, "question": "hi?"}], chat=True)
    assert rows[0].get("n_prompt_tokens") == (7 if asked == 7 else None)
    assert rows[0]["n_tokens"] == 2


def test_a_server_that_gives_one_choice_whatever_it_is_asked_is_asked_again(tmp_path):
    with served(lambda route, body, n: (200, {}, completion(f"answer {body['seed']}"))) as server:
        report, rows = ask(server, tmp_path, sampling=THREE)
    assert len(server.requests) == 33 and len({row["response"] for row in rows}) == 33
    assert report.n_tokens == 99 and not report.warnings


def test_choices_go_to_the_samples_that_their_index_names(tmp_path):
    reply = {"choices": [{"index": i, "text": f"sample {i}"} for i in (2, 0, 1)]}
    with served(lambda route, body, n: (200, {}, reply)) as server:
        _, rows = ask(server, tmp_path, sampling=THREE)
    assert [row["response"] for row in rows] == ["sample 0", "sample 1", "sample 2"] * 11


def test_choices_that_all_have_one_index_are_nonsense(tmp_path):
    reply = {"choices": [{"index": 0, "text": str(i)} for i in range(3)]}
    with (
        served(lambda route, body, n: (200, {}, reply)) as server,
        pytest.raises(EndpointError, match="3 choices, all with the index 0"),
    ):
        ask(server, tmp_path, sampling=THREE, concurrency=1)
    unnumbered = {"choices": [{"text": str(i)} for i in range(3)]}
    with served(lambda route, body, n: (200, {}, unnumbered)) as server:
        _, rows = ask(server, tmp_path, sampling=THREE)
    assert [row["response"] for row in rows[:3]] == ["0", "1", "2"]


def test_a_server_that_does_not_sample_is_named(tmp_path):
    with served(lambda route, body, n: (200, {}, completion("same", "same", "same"))) as server:
        report, _ = ask(server, tmp_path, sampling=THREE)
    assert "ignore the temperature" in report.warnings[0]


@pytest.mark.parametrize(
    "stumble",
    [
        (500, {}, {"error": "oops"}),
        (429, {"Retry-After": "0"}, {"error": "busy"}),
        (200, {}, b"<html>proxy</html>"),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": {}}]}),
        (200, {"Content-Length": "1000000"}, b'{"choices": [{"te'),
    ],
    ids=["error", "busy", "html", "empty", "no text", "cut"],
)
def test_what_may_pass_is_tried_again(tmp_path, stumble):
    with served(
        lambda route, body, n: stumble if n == 1 else (200, {"Connection": "close"}, completion("fine"))
    ) as server:
        _, rows = ask(server, tmp_path, concurrency=1)
    assert [row["response"] for row in rows] == ["fine"] * 11 and len(server.requests) == 12


def test_patience_ends_and_nothing_that_was_answered_is_lost(tmp_path):
    def reply(route, body, n):
        return (200, {}, completion(body["prompt"])) if n <= 4 else (503, {}, {"error": "down"})

    with served(reply) as server, pytest.raises(EndpointError, match=r"HTTP 503(.|\n)*tried 3 times(.|\n)*continue"):
        ask(server, tmp_path, concurrency=1)
    assert len(server.requests) == 4 + 3
    assert [row["id"] for row in rows_of(tmp_path / "a.jsonl")] == ["q1", "q2", "q3", "q4"]
    with served(lambda route, body, n: (200, {}, completion(body["prompt"]))) as server:
        report, rows = ask(server, tmp_path)
    assert report.n_resumed == 4 and len(server.requests) == 7
    assert [row["response"] for row in rows] == [q["prompt"] for q in talker.QUESTIONS]


def test_no_server_is_one_clear_error(tmp_path):
    with served(lambda *_: (200, {}, {})) as server:
        pass
    with pytest.raises(EndpointError, match=r"127.0.0.1.*no connection"):
        ask(server, tmp_path)
    for url in ("localhost:8000", "ftp://host", "http://"):
        with pytest.raises(EndpointError, match="is no URL of a server"):
            generate("m", talker.QUESTIONS, tmp_path / "b.jsonl", endpoint=url)


def test_a_refusal_is_not_tried_again_and_says_what_the_server_said(tmp_path):
    with served(lambda *_: (404, {}, {"detail": "no model m"})) as server, pytest.raises(EndpointError) as caught:
        ask(server, tmp_path, concurrency=1)
    assert "404" in str(caught.value) and "no model m" in str(caught.value) and "--model" in str(caught.value)
    assert len(server.requests) == 1


def test_a_prompt_beyond_the_server_s_window_stops_or_is_answered_with_nothing(tmp_path):
    def reply(route, body, n):
        if len(body["prompt"]) > 20:
            return 400, {}, {"error": {"message": "This model's maximum context length is 20 tokens"}}
        return 200, {}, completion("fine")

    with served(reply) as server:
        with pytest.raises(EndpointError, match=r"row 9: (.|\n)*maximum context(.|\n)*--long-prompts skip"):
            ask(server, tmp_path, concurrency=1)
        _, rows = ask(server, tmp_path, long_prompts="skip", overwrite=True)
    assert [row["finish"] for row in rows] == ["stop"] * 8 + ["too long"] * 3


def test_the_key_is_sent_never_shown_and_never_follows_a_redirect(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    refusal = (401, {}, {"error": "bad key sk-very-secret"})
    with served(lambda *_: refusal) as server, pytest.raises(EndpointError) as caught:
        ask(server, tmp_path, concurrency=1)
    assert server.requests[0][1]["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in str(caught.value) and "OPENAI_API_KEY" in str(caught.value)
    with served(lambda *_: (200, {}, completion("stolen"))) as other:
        for status in (302, 307, 308):
            away = {"Location": other.url + "/v1/completions"}
            with (
                served(lambda *_, s=status, a=away: (s, a, b"")) as server,
                pytest.raises(EndpointError, match="redirects"),
            ):
                ask(server, tmp_path, concurrency=1)
    assert other.requests == []
    assert not any("secret" in path.read_text() for path in tmp_path.iterdir())


def test_urls_with_and_without_v1_and_what_is_shown_of_them():
    assert base_url("http://h:1/") == base_url("http://h:1/v1/") == "http://h:1/v1"
    assert shown_url("https://user:word@h:1/v1?key=abc") == "https://h:1/v1"
