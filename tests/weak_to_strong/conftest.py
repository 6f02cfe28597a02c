"""What the tests of this folder share."""

import gc

import pytest


@pytest.fixture(scope="session")
def few_objects():
    """Training collects garbage at its end; with all of transformers loaded, that takes longer than a tiny training."""
    from transformers import PreTrainedModel, Trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
