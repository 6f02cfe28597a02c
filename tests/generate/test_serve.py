"""`expo generate --endpoint` against a real server of another's: `transformers serve`, started and stopped here."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import talker
from talker import rows_of

from expo.generate import Sampling, generate

SECONDS = 120  # a busy machine needs long for the server's imports


@contextlib.contextmanager
def transformers_serve(folder, log):
    """The URL of `transformers serve FOLDER`; the test is skipped where its packages are missing."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f"transformers serve needs {package}: pip install 'expo[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    words += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url, process, log):
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"no server within {SECONDS} s:\n{log.read_text()[-3000:]}")


def test_transformers_serve_answers_as_the_local_model_does(folder, live, tmp_path):
    """Plain prompts with a stop text, a chat, several samples of a request, and another model's name."""
    from expo.generate.endpoint import EndpointError

    asked = [*talker.QUESTIONS[:5], {"id": "chat", "messages": [{"role": "user", "content": "hi"}]}]
    plain = Sampling(max_tokens=10)
    local = tmp_path / "local.jsonl"
    generate(live, asked, local, sampling=plain)
    first = rows_of(local)[0]["response"]
    stop = Sampling(max_tokens=10, stop=(first[3:5],))
    generate(live, asked, tmp_path / "stopped.jsonl", sampling=stop)
    with transformers_serve(folder, tmp_path / "log") as url:
        generate(str(folder), asked, tmp_path / "served.jsonl", sampling=plain, endpoint=url)
        generate(str(folder), asked, tmp_path / "served-stopped.jsonl", sampling=stop, endpoint=url)
        three = Sampling(samples=3, temperature=1.0, max_tokens=4)
        report = generate(str(folder), asked[:5], tmp_path / "three.jsonl", sampling=three, endpoint=url)
        with pytest.raises(EndpointError, match="pinned"):
            generate("another", asked, tmp_path / "none.jsonl", sampling=plain, endpoint=url)
    for ours, theirs in (("local", "served"), ("stopped", "served-stopped")):
        ours, theirs = rows_of(tmp_path / f"{ours}.jsonl"), rows_of(tmp_path / f"{theirs}.jsonl")
        assert [row["response"] for row in theirs] == [row["response"] for row in ours]
    assert report.n_answers == 15 and "ignore the temperature" in report.warnings[0]
