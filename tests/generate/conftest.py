"""A tiny model, alive and as a folder."""

import pytest
import talker

from expo.generate.local import wrap
from expo.ops import one_thread


@pytest.fixture(scope="session", autouse=True)
def single():
    """Models this small are slower on several threads."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def live():
    """Tokenizer and model that are loaded already."""
    return wrap(talker.build_model(), talker.build_tokenizer(), "tiny")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The same as a checkpoint."""
    return talker.save(tmp_path_factory.mktemp("talker") / "tiny")


@pytest.fixture
def questions(tmp_path):
    return talker.write_jsonl(tmp_path / "questions.jsonl", talker.QUESTIONS)
