"""A device that is not there ends in one clear error; auto always works."""

import pytest
import torch
from pico import pico_pair

import expo
from expo.errors import ExpoError


@pytest.mark.skipif(torch.cuda.is_available(), reason="an NVIDIA GPU is here")
def test_cuda_without_a_gpu_is_refused_and_writes_nothing(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    with pytest.raises(ExpoError, match="--device cpu"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", device="cuda")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_an_unknown_device_is_refused(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    with pytest.raises(ExpoError, match="not a device"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", device="gpu-please")


def test_auto_always_finds_a_device(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    report = expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", device="auto")
    assert report.tensors > 0
