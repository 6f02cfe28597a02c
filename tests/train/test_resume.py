"""A killed run goes on when it is called again, to the weights of a run that was not killed."""

import os
import signal

import pytest
from taught import EXACT, distance, logs, preferences, questions

from expo.cli.train_said import closing
from expo.errors import OutputError
from expo.train import train_dpo, train_sft


def killed_at(step, train, *arguments, **settings):
    """Run in a fork that kills itself after a step; its parent has torch loaded already."""

    def progress(done, steps, metrics):
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            train(*arguments, progress=progress, **settings)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    ("train", "lora"), [(train_sft, None), (train_dpo, None), (train_sft, {"rank": 4, "dropout": 0.2})]
)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(train, lora, start, tmp_path):
    rows = questions(24) if train is train_sft else preferences(24)
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "save_every": 2, "schedule": "cosine", **EXACT}
    settings["lora"] = lora
    if train is train_dpo:
        settings["reference_cache"] = str(tmp_path / "r")
    whole = train(start, rows, tmp_path / "whole", **settings)
    killed_at(7, train, start, rows, tmp_path / "cut", **settings)
    assert not (tmp_path / "cut").exists()
    report = train(start, rows, tmp_path / "cut", **settings)
    assert report.resumed_at == 6 and report.steps == 12
    assert report.tokens == whole.tokens == whole.leg_tokens == 2 * whole.tokens_each_epoch
    assert report.leg_tokens == whole.tokens_each_epoch  # steps 7 to 12 are the second epoch
    assert report.record()["tokens_per_second"] == report.leg_tokens / report.seconds
    said = closing(report)
    assert f"12 steps on 24 rows, {whole.tokens:,} tokens\n" in said and f"6 steps, {report.leg_tokens:,} tok" in said
    assert distance(tmp_path / "whole", tmp_path / "cut") == 0
    assert logs(tmp_path / "cut") == logs(tmp_path / "whole")
    assert not (tmp_path / "cut.partial").exists()


def test_a_checkpoint_that_a_kill_cut_is_passed_over(start, tmp_path):
    settings = {"max_steps": 8, "batch_size": 4, "learning_rate": 1e-3, "save_every": 3, **EXACT}
    killed_at(5, train_sft, start, questions(24), tmp_path / "out", **settings)
    training = tmp_path / "out.partial" / "training"
    (training / "checkpoint-6").mkdir()
    (training / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
    report = train_sft(start, questions(24), tmp_path / "out", **settings)
    assert report.resumed_at == 3


def test_another_run_does_not_take_over_and_restart_drops_the_first(start, tmp_path):
    settings = {"max_steps": 6, "batch_size": 4, "save_every": 2, **EXACT}
    killed_at(5, train_sft, start, questions(24), tmp_path / "out", **settings)
    with pytest.raises(OutputError, match=r"belongs to another run. What differs:\n  rows: they have changed\n"):
        train_sft(start, questions(20), tmp_path / "out", **settings)
    with pytest.raises(OutputError, match=r"\n  learning_rate: 1e-05 there, 0.001 now\n.*: --restart"):
        train_sft(start, questions(24), tmp_path / "out", learning_rate=1e-3, **settings)
    report = train_sft(start, questions(20), tmp_path / "out", resume=False, **settings)
    assert report.resumed_at == 0 and report.rows == 20


def test_what_was_complete_before_a_kill_is_published_by_the_next_call(start, tmp_path, monkeypatch):
    from expo.output.partial import Partial

    def fail(*_, **__):
        raise KeyboardInterrupt

    settings = {"max_steps": 2, **EXACT}
    with monkeypatch.context() as patched:
        patched.setattr(Partial, "publish", fail)
        with pytest.raises(KeyboardInterrupt):
            train_sft(start, questions(8), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    seen = []
    report = train_sft(start, questions(8), tmp_path / "out", progress=lambda *x: seen.append(x), **settings)
    assert (tmp_path / "out" / "model.safetensors").exists() and not seen
    assert report.steps == 2 and report.loss is not None


def test_an_output_that_exists_is_kept_unless_told(start, tmp_path):
    train_sft(start, questions(8), tmp_path / "out", max_steps=1, **EXACT)
    with pytest.raises(OutputError, match="--overwrite"):
        train_sft(start, questions(8), tmp_path / "out", max_steps=1, **EXACT)
    train_sft(start, questions(8), tmp_path / "out", max_steps=2, overwrite=True, **EXACT)
    assert logs(tmp_path / "out")[-1]["step"] == 2
    with pytest.raises(OutputError, match="read-only"):
        train_sft(start, questions(8), start / "inside", max_steps=1, **EXACT)
