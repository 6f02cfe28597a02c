"""One tiny checkpoint for all trainers' tests, quiet and on one thread."""

import gc

import pytest
import torch
from taught import save_model

from expo.train.load import quietly


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A tiny Llama with random weights."""
    import expo.train.classify
    import expo.train.dpo  # noqa: F401, all that is heavy, before what follows

    gc.collect()
    gc.freeze()  # accelerate collects garbage at each run's start: half a second for the objects of all imports
    with quietly():
        yield save_model(tmp_path_factory.mktemp("start") / "model")
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads wait for each other on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
