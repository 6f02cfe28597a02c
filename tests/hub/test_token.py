"""The token stays between huggingface_hub and the Hub: in no output, record, manifest or card, and at no other host."""

import logging

import pytest
from engine import command
from pico import pico_pair
from standin_hub import Faults, Refusal, User
from standin_hub.hub import TOKEN

SECRET = TOKEN.removeprefix("hf_")


@pytest.fixture
def pair(hub, tmp_path, monkeypatch):
    """tester/sft and tester/dpo on the Hub; this process stands in an empty folder."""
    pico_pair(tmp_path / "pair")
    for name in ("sft", "dpo"):
        hub.add(f"tester/{name}", tmp_path / "pair" / name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return ["--sft", "tester/sft", "--dpo", "tester/dpo"]


def seen(hub, tmp_path):
    """Every byte that a person or another host could see."""
    for path in tmp_path.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for asked in hub.asked:
        if asked.host == "storage":
            yield asked.target, (asked.target + asked.header_text).encode()
        else:
            yield asked.target, asked.target.encode()


def test_a_whole_run_from_the_hub_to_the_hub_shows_the_token_nowhere(hub, pair, tmp_path, capsys):
    said = [
        command(capsys, "extrapolate", *pair, "--stream", "-o", "out", "--push-to", "tester/out", "--private"),
        command(capsys, "push", "out", "tester/copy", "--json"),
        command(capsys, "verify", "out", "--against", "tester/out"),
        command(capsys, "extrapolate", *pair, "--against", "tester/out", "--json"),
        command(capsys, "push", "out", "tester/sft"),
    ]
    assert [code for code, _, _ in said] == [0, 0, 0, 0, 1], said
    assert any(asked.host == "storage" for asked in hub.asked)
    for code, out, err in said:
        assert SECRET not in out + err, (code, out, err)
    found = [where for where, content in seen(hub, tmp_path) if SECRET.encode() in content]
    assert found == []
    shown = hub.repositories["tester/out"].head.files
    assert not any(SECRET.encode() in blob.path.read_bytes() for blob in shown.values())


@pytest.mark.parametrize("kind", ["html", "reset", "500", "403", "400"])
@pytest.mark.parametrize("where", ["/api/models/tester/out", "/commit/", "/uploads/", "/whoami"])
def test_no_failure_repeats_the_token(hub, pair, tmp_path, capsys, kind, where):
    hub.faults = Faults(1, [kind], where=lambda request: where in request.path)
    code, out, err = command(capsys, "push", str(tmp_path / "pair" / "dpo"), "tester/out")
    assert code == 1 and "tester/out" in err and "Traceback" not in err
    assert SECRET not in out + err
    assert not [where for where, content in seen(hub, tmp_path) if SECRET.encode() in content]


def test_a_server_that_repeats_the_token_is_not_repeated(hub, pair, tmp_path, capsys):
    def echo(hub, request, *groups):
        raise Refusal(400, message=f"bad request with {request.authorization}", headers={"X-HF-Warning": f"w; {TOKEN}"})

    hub.route("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", echo)
    code, out, err = command(capsys, "push", str(tmp_path / "pair" / "dpo"), "tester/out")
    assert code == 1 and "bad request with" in err and SECRET not in out + err


@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_a_try_that_failed_logs_no_signed_address(hub, pair, capsys, monkeypatch, more):
    said, library = [], logging.getLogger("huggingface_hub")
    noted = logging.Handler()
    noted.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(library, "handlers", [*library.handlers, noted])
    monkeypatch.setattr(library, "level", logging.WARNING)
    library.warning("heard")
    hub.faults = Faults(3, ["close", "reset", "500"])
    assert command(capsys, "extrapolate", *pair, *more, "-o", "out")[0] == 0
    assert len(hub.faults.failed) > 2 and said == ["heard"]


def test_refusals_through_the_command_line_name_the_repository_and_the_remedy(hub, pair, tmp_path, capsys):
    hub.users[TOKEN] = User("tester", may_write=False)
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/out")
    assert code == 1 and "tester/out: the token has no write access" in err and "settings/tokens" in err
    assert not (tmp_path / "work" / "out").exists() and not (tmp_path / "work" / "out.partial").exists()
    hub.users[TOKEN] = User("tester")
    hub.add("tester/full", tmp_path / "pair" / "sft")
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/full")
    assert code == 1 and "tester/full exists and holds other content" in err and "--branch" in err
    assert not (tmp_path / "work" / "out.partial").exists()
    for options, words in [(["--pr"], "--push-to"), (["--push-to", "a/b", "--branch", "x", "--pr"], "exclude")]:
        code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", *options)
        assert code == 2 and words in err
