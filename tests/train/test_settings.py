"""Settings come from YAML mappings and from keywords, and say what is wrong with them."""

import dataclasses

import pytest
import yaml

from expo.train import ClassifySettings, DpoSettings, LoraSettings, SftSettings
from expo.train.errors import BadSetting
from expo.train.settings import changed


def test_a_yaml_mapping_becomes_settings():
    text = "{learning_rate: 5e-7, epochs: 3, loss: ipo, lora: {rank: 8, targets: [q_proj]}, report_to: wandb}"
    found = DpoSettings.of(yaml.safe_load(text))
    assert found.learning_rate == 5e-7 and found.epochs == 3.0 and isinstance(found.epochs, float)
    assert found.lora == LoraSettings(rank=8, targets=("q_proj",)) and found.report_to == ("wandb",)


def test_settings_survive_a_round_trip_through_plain_objects():
    found = SftSettings(lora=LoraSettings(rank=4), max_steps=3)
    assert SftSettings.of(dataclasses.asdict(found)) == found


def test_changes_are_checked_as_a_mapping_is():
    assert changed(ClassifySettings(), {"labels": ["no", "yes"]}).labels == ("no", "yes")
    with pytest.raises(BadSetting, match="Did you mean 'batch_size'"):
        changed(SftSettings(), {"batchsize": 3})


@pytest.mark.parametrize(
    ("kind", "mapping", "what"),
    [
        (SftSettings, {"loss": "ipo"}, "'loss' is no setting of SftSettings"),
        (DpoSettings, {"loss": "ipoo"}, "none of sigmoid, ipo, orpo. Did you mean 'ipo'"),
        (SftSettings, {"epochs": "many"}, "'many' is not a number"),
        (SftSettings, {"batch_size": 2.5}, "2.5 is a float, not a int"),
        (SftSettings, {"batch_size": True}, "True is a bool"),
        (SftSettings, {"batch_size": 0}, "at least 1"),
        (SftSettings, {"learning_rate": float("nan")}, "out of range"),
        (SftSettings, {"lora": {"rang": 3}}, "Did you mean 'rank'"),
        (DpoSettings, {"label_smoothing": 0.5}, "below 0.5"),
        (DpoSettings, {"label_smoothing": 0.1, "loss": "orpo"}, "belongs to --loss sigmoid"),
        (SftSettings, {"quantization": "nf4"}, "Add adapters"),
        (SftSettings, {"shard_size": "banana"}, "shard_size (--shard-size): 'banana' is not a size"),
    ],
)
def test_wrong_settings_are_named(kind, mapping, what):
    with pytest.raises(BadSetting) as error:
        kind.of(mapping)
    assert what in str(error.value)
