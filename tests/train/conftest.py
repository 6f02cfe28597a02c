"""One tiny checkpoint for all trainers' tests, quiet and on one thread."""

import pytest
import torch
from taught import save_model

from expo.train.load import quietly


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A tiny Llama with random weights."""
    with quietly():
        return save_model(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads wait for each other on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
