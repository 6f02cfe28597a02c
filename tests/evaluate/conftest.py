"""A tiny live model, questions, answers and pairs for the metrics."""

import pytest
import talker

from expo.ops import one_thread

CHOICES = ("short", "a rather longer answer", "7", "no, it is not", "9 9 9")


@pytest.fixture(scope="session", autouse=True)
def single():
    """Models this small are slower on several threads."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def tokenizer():
    return talker.build_tokenizer()


@pytest.fixture
def model():
    """New for each test, as some change its weights."""
    return talker.build_model()


@pytest.fixture(scope="session")
def pairs():
    """Ten preference pairs of mixed lengths."""
    return [
        {"id": f"p{i}", "prompt": "ab" * i + "=", "chosen": CHOICES[i % 5], "rejected": CHOICES[(i + 2) % 5] + "!" * i}
        for i in range(10)
    ]


@pytest.fixture(scope="session")
def answers():
    """Ten prompts with completions of mixed lengths."""
    return [{"id": i, "prompt": "xy" * (i % 4) + f"{i}=", "completion": CHOICES[i % 5]} for i in range(10)]


@pytest.fixture(scope="session")
def questions():
    """Six questions with gold answers."""
    return [{"id": f"q{i}", "prompt": "ab" * i + f" {i}=", "gold": str(i)} for i in range(6)]
