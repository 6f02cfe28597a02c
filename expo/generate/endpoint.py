"""Answers from an OpenAI-compatible server: plain prompts by /v1/completions, messages by /v1/chat/completions.

The key comes from OPENAI_API_KEY, goes to this server only (no redirect is followed) and is never shown.
"""

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

import xxhash

from expo.errors import ExpoError
from expo.generate.answers import Answer
from expo.generate.prompts import Demo, Question, chat_messages, plain_text
from expo.generate.sampling import Sampling
from expo.generate.write import cut_at_stop

ATTEMPTS = 6
_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds before the second attempt, doubled each time
_MOST_BYTES = 64 << 20  # of one reply
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_ABOUT_LENGTH = ("context length", "context_length", "maximum length", "too long", "max_model_len", "input length")


class EndpointError(ExpoError):
    """A server that does not answer, refuses, or answers nonsense."""


class PromptRefused(EndpointError):
    """A server says that a prompt is too long for its model."""


class _TryAgain(Exception):
    """What may pass: no connection, a busy server, a reply that is cut or no JSON."""

    def __init__(self, problem: str, wait: float | None = None):
        super().__init__(problem)
        self.wait = wait


class Endpoint(NamedTuple):
    """A server, the model's name on it, and how patient to be."""

    url: str
    model: str
    timeout: float = 600.0
    attempts: int = ATTEMPTS
    wait: float = _WAIT

    def ask(
        self, question: Question, samples: Sequence[int], demos: Sequence[Demo], sampling: Sampling
    ) -> list[tuple[int, Answer]]:
        """An answer for some of the samples, the first of them at least.

        One request asks for all; a server that gives one choice whatever it is asked is asked again by the caller.
        Raises EndpointError, PromptRefused.
        """
        route, body = _request(self.model, question, samples, demos, sampling)
        reply = self._post(route, body, len(samples))
        choices = _ordered(reply["choices"])[: len(samples)]
        # Of several choices a server tells the sum alone.
        usage = reply.get("usage") if len(reply["choices"]) == 1 else None
        alone, asked = _tokens(usage, "completion_tokens"), _tokens(usage, "prompt_tokens")
        return [
            (sample, Answer(cut_at_stop(_text(choice), sampling.stop), alone, _why(choice), asked))
            for sample, choice in zip(samples, choices, strict=False)
        ]

    def _post(self, route: str, body: dict[str, Any], n: int) -> dict[str, Any]:
        problem = ""
        for attempt in range(self.attempts):
            try:
                return _checked(_send(f"{base_url(self.url)}/{route}", body, self.timeout), self.url)
            except _TryAgain as error:
                problem = str(error)
                if attempt + 1 < self.attempts:
                    patience = self.wait * 2**attempt * random.uniform(0.8, 1.2)
                    time.sleep(min(_LONGEST_WAIT, max(patience, error.wait or 0.0)))
        raise EndpointError(
            f"{shown_url(self.url)}: {problem} (tried {self.attempts} times).\n"
            "What is answered is kept: run the same command again to continue."
        )


def check_url(url: str) -> None:
    """Raises EndpointError unless this is http or https to some host."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointError(f"--endpoint {shown_url(url)!r} is no URL of a server, such as http://localhost:8000/v1.")


def base_url(url: str) -> str:
    """The URL with its /v1, written or not."""
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def shown_url(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _request(
    model: str, question: Question, samples: Sequence[int], demos: Sequence[Demo], sampling: Sampling
) -> tuple[str, dict[str, Any]]:
    key = json.dumps([sampling.seed, question.id, samples[0]]).encode()
    body: dict[str, Any] = {"model": model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    body |= {"top_p": sampling.top_p, "seed": xxhash.xxh3_64_intdigest(key) >> 33}
    if len(samples) > 1:
        body["n"] = len(samples)
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.top_k:
        body["top_k"] = sampling.top_k  # not OpenAI's, but vLLM's and others'
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(sampling, name):
            body[name] = value
    if question.messages:
        return "chat/completions", {**body, "messages": chat_messages(question, demos)}
    return "completions", {**body, "prompt": plain_text(question, demos)}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _send(url: str, body: dict[str, Any], timeout: float) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as reply:
            raw = reply.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise _refusal(error, url) from None
    except TimeoutError:
        raise _TryAgain(f"no answer within {timeout:.0f} s") from None
    except urllib.error.URLError as error:
        raise _TryAgain(f"no connection: {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _TryAgain(f"the connection broke: {error!r}") from None
    if len(raw) > _MOST_BYTES:
        raise EndpointError(f"{shown_url(url)}: a reply of more than {_MOST_BYTES >> 20} MiB.")
    return raw


def _refusal(error: urllib.error.HTTPError, url: str) -> Exception:
    said = _without_key(error.read(4000).decode(errors="replace").strip())[:500]
    problem = f"HTTP {error.code} {error.reason}: {said or '(no text)'}"
    if error.code in _AGAIN:
        after = error.headers.get("Retry-After", "")
        return _TryAgain(problem, float(after) if after.isdigit() else None)
    if error.code in (400, 413, 422) and any(word in said.lower() for word in _ABOUT_LENGTH):
        return PromptRefused(f"{shown_url(url)}: {problem}")
    hint = {
        401: "\nThe key is read from the environment: OPENAI_API_KEY.",
        403: "\nThe key is read from the environment: OPENAI_API_KEY.",
        404: "\nCheck the URL, and the model's name: --model is the name that the server knows.",
    }.get(error.code, "\nThe server redirects; pass the address it redirects to." if error.code // 100 == 3 else "")
    return EndpointError(f"{shown_url(url)}: {problem}{hint}")


def _without_key(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY")
    return text.replace(key, "***") if key else text


def _checked(raw: bytes, url: str) -> dict[str, Any]:
    """The reply, if it is one; what else comes may be a proxy's page, and pass."""
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        raise _TryAgain(f"the reply is no JSON: {_without_key(raw[:200].decode(errors='replace'))!r}") from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or any(_text(choice) is None for choice in choices):
        raise _TryAgain(f"the reply holds no text in choices: {_without_key(raw[:200].decode(errors='replace'))!r}")
    indices = [choice.get("index") for choice in choices]
    if len(choices) > 1 and indices[0] is not None and indices.count(indices[0]) == len(indices):
        raise _TryAgain(f"the reply holds {len(choices)} choices, all with the index {indices[0]!r:.40}")
    return reply


def _ordered(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices by their index, where the server gives every one of them its own."""
    indices = [choice.get("index") for choice in choices]
    if any(not isinstance(index, int) or isinstance(index, bool) for index in indices):
        return choices
    return [choice for _, choice in sorted(zip(indices, choices, strict=True), key=lambda pair: pair[0])]


def _text(choice: Any) -> str | None:
    """A choice's text; the content of a chat's message may be null where nothing was said."""
    if not isinstance(choice, dict):
        return None
    if isinstance(choice.get("text"), str):
        return choice["text"]
    message = choice.get("message")
    if not isinstance(message, dict) or "content" not in message:
        return None
    content = message["content"]
    return "" if content is None else content if isinstance(content, str) else None


def _tokens(usage: Any, name: str) -> int | None:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _why(choice: dict[str, Any]) -> str:
    return "length" if choice.get("finish_reason") == "length" else "stop"
