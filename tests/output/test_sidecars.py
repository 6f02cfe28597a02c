"""Every file beside the weights arrives byte for byte, but for the one field that must change."""

import json
import os
import sys

import pytest
import xxhash
from crash import small_pair, tree
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
from expo.errors import ExpoError
from expo.output.sidecars import copy_side_files, hash_file, with_dtype, with_sampling

ANY_BYTES = {
    "tokenizer.json": '{"model": {"vocab": {"é\u2028": 1}}}'.encode(),
    "tokenizer.model": bytes(range(256)) * 5000,  # over a mebibyte
    "chat_template.jinja": b"{% for m in messages %}\r\n{{ m }}\r\n{% endfor %}",
    "special_tokens_map.json": b'\xef\xbb\xbf{"eos_token": "</s>"}',
    "empty.txt": b"",
    "LICENSE": b"no newline at the end",
    "notes.txt": b"latin-1: \xe9\xff\x00",
    "merges": b"no suffix\n",
    "vocab with a space.txt": b"1",
    "\u00fcmlaut.txt": b"2",
    "preprocessor/deep/er/config.json": b'{"dtype": "bfloat16"}\r\n',
    "1_Pooling/config.json": b"{}",
    "sub/README.md": b"of a part, not of the model",
    "configuration_pico.py": b"raise RuntimeError('imported')\n",
    "modeling_pico.py": b"import os, sys\nopen(os.environ['EXPO_TEST_RAN'], 'w').close()\n",
}


def written(tmp_path, sft, dpo, **settings):
    output = tmp_path / "out"
    expo.extrapolate(sft=sft, dpo=dpo, output=output, threads=1, **settings)
    return output


@pytest.fixture
def pair(tmp_path):
    return small_pair(tmp_path, side_files={})


def add(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# --- Whole files -----------------------------------------------------------------------------------------------------


def test_every_side_file_of_the_donor_arrives_byte_for_byte(pair, tmp_path):
    add(pair.dpo, ANY_BYTES)
    add(pair.sft, {"only-in-sft.txt": b"1", "LICENSE": b"another"})
    output = written(tmp_path, *pair)
    for name in [*ANY_BYTES, "config.json"]:
        assert (output / name).read_bytes() == (pair.dpo / name).read_bytes(), name
    made = {"README.md", "expo.json", "model.safetensors.index.json"}
    files = {name for name, content in tree(output).items() if content != "folder"}
    assert files - made == {name for name, content in tree(pair.dpo).items() if content != "folder"} - made


@pytest.mark.parametrize("settings", [{"dtype": "float32"}, {"arithmetic": "reference"}], ids=str)
def test_only_the_two_configs_may_change_in_another_type_or_arithmetic(settings, pair, tmp_path):
    add(pair.dpo, ANY_BYTES)
    output = written(tmp_path, *pair, **settings)
    for name in ANY_BYTES:
        assert (output / name).read_bytes() == ANY_BYTES[name], name


def test_the_manifest_holds_the_hash_of_every_side_file_as_it_was_written(pair, tmp_path):
    add(pair.dpo, ANY_BYTES)
    output = written(tmp_path, *pair, dtype="float32")
    recorded = json.loads((output / "expo.json").read_text())["side_files"]
    assert set(recorded) == {*ANY_BYTES, "config.json"}
    for name, digest in recorded.items():
        assert digest == xxhash.xxh3_128_hexdigest((output / name).read_bytes()) == hash_file(output / name)


def test_files_of_other_weights_and_of_trainers_stay_behind(pair, tmp_path):
    add(
        pair.dpo,
        {
            "README.md": b"the donor's card",
            "expo.json": b"{}",
            "optimizer.pt": b"",
            "trainer_state.json": b"{}",
            "training_args.bin": b"",
            "checkpoint-10/optimizer.pt": b"",
            "checkpoint-10/config.json": b"{}",
            "original/consolidated.00.pth": b"",
            "onnx/model.onnx": b"",
            ".gitattributes": b"",
            "__pycache__/modeling.pyc": b"",
        },
    )
    output = written(tmp_path, *pair)
    weights = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
    assert set(tree(output)) == {*weights, "config.json", "README.md", "expo.json"}
    assert "the donor's card" not in (output / "README.md").read_text()


def test_a_link_inside_the_checkpoint_arrives_as_the_file_itself(pair, tmp_path):
    add(pair.dpo, {"tokenizer.json": b"{}"})
    (pair.dpo / "linked.json").symlink_to("tokenizer.json")
    output = written(tmp_path, *pair)
    assert not (output / "linked.json").is_symlink()
    assert (output / "linked.json").read_bytes() == b"{}"


def test_code_is_copied_and_never_run(pair, tmp_path, monkeypatch):
    add(pair.dpo, ANY_BYTES)
    config = json.loads((pair.dpo / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_pico.PicoConfig", "AutoModel": "modeling_pico.PicoModel"}
    (pair.dpo / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("EXPO_TEST_RAN", str(tmp_path / "ran"))
    monkeypatch.chdir(pair.dpo)
    before = set(sys.modules)
    output = written(tmp_path, *pair, dtype="float32")
    assert (output / "modeling_pico.py").read_bytes() == ANY_BYTES["modeling_pico.py"]
    assert not (tmp_path / "ran").exists()
    assert not {name for name in set(sys.modules) - before if "pico" in name}


def test_the_donor_is_only_read(pair, tmp_path):
    add(pair.dpo, ANY_BYTES)
    for path in pair.dpo.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    before = {side: tree(side) for side in pair}
    output = written(tmp_path, *pair, dtype="float32")
    assert {side: tree(side) for side in pair} == before
    assert os.access(output / "config.json", os.W_OK)


def test_a_side_file_that_is_gone_when_it_is_copied_is_named(pair, tmp_path):
    add(pair.dpo, {"tokenizer.json": b"{}"})
    planned = expo.plan(expo.extrapolation(sft=pair.sft, dpo=pair.dpo))
    (pair.dpo / "tokenizer.json").unlink()
    with pytest.raises(ExpoError, match=r"dpo/tokenizer\.json"):
        expo.run(planned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_side_files_gets_none(tmp_path):
    tensors = llama_tensors()
    sft = write_checkpoint(tmp_path / "sft", tensors)
    dpo = write_checkpoint(tmp_path / "dpo", nudged(tensors))
    assert set(tree(written(tmp_path, sft, dpo))) == {"model.safetensors", "README.md", "expo.json"}


# --- The element type in config.json ---------------------------------------------------------------------------------

CONFIGS = {  # $ stands for the type: what it was before, what it is after
    "torch_dtype": '{"a": 1, "torch_dtype": "$", "b": 1e-05}',
    "dtype, spaced": '{\n\t"dtype" :  "$"\n}\n',
    "both, and nested": '{"dtype": "$", "text_config": {"dtype": "$", "x": {"torch_dtype": "$"}}, "torch_dtype": "$"}',
    "keys that end alike": '{"q": {"bnb_4bit_compute_dtype": "bfloat16"}, "mamba_ssm_dtype": "float16", "dtype": "$"}',
    "values that look alike": r'{"note": "\"dtype\": \"bfloat16\"", "name": "dtype", "dtype": "$"}',
    "nothing said": '{"dtype": null, "torch_dtype": "auto"}',
    "integers": '{"dtype": "int8", "torch_dtype": "uint8"}',
    "no field": '{"rope_theta": 1e6, "unicode": "é \\u00e9"}',
    "crlf": '{\r\n  "dtype": "$",\r\n  "a": 1\r\n}\r\n',
}


@pytest.mark.parametrize("was", ["bfloat16", "float16", "float64", "float32"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_another_type_changes_the_fields_that_state_it_and_no_other_byte(config, was, tmp_path):
    before, after = config.replace("$", was), config.replace("$", "float32")
    assert with_dtype(before, "float32") == after
    add(tmp_path, {"in/config.json": before.encode()})
    hashes = copy_side_files(["config.json"], tmp_path / "in", tmp_path / "out", dtype="float32", do_sample=False)
    assert (tmp_path / "out" / "config.json").read_bytes() == after.encode()
    assert hashes == {"config.json": xxhash.xxh3_128_hexdigest(after.encode())}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_without_another_type_no_byte_changes(config, tmp_path):
    add(tmp_path, {"in/config.json": config.encode(), "in/generation_config.json": b'{"do_sample": false}\r\n'})
    names = ["config.json", "generation_config.json"]
    copy_side_files(names, tmp_path / "in", tmp_path / "out", dtype=None, do_sample=False)
    assert tree(tmp_path / "in") == tree(tmp_path / "out")


def test_the_output_in_another_type_states_that_type(tmp_path):
    config = {**LLAMA, "dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "rope_theta": 10000.0}}
    pair = small_pair(tmp_path, config=config, side_files={"sub/config.json": '{"dtype": "bfloat16"}'})
    output = written(tmp_path, *pair, dtype="float32")
    stated = json.loads((output / "config.json").read_text())
    assert stated == {**config, "dtype": "float32", "text_config": {**config["text_config"], "dtype": "float32"}}
    before = (pair.dpo / "config.json").read_bytes()
    assert (output / "config.json").read_bytes() == before.replace(b'"bfloat16"', b'"float32"')
    assert (output / "sub" / "config.json").read_bytes() == b'{"dtype": "bfloat16"}'


def test_the_same_type_leaves_the_config_alone(pair, tmp_path):
    output = written(tmp_path, *pair, dtype="bfloat16")
    assert (output / "config.json").read_bytes() == (pair.dpo / "config.json").read_bytes()


# --- Sampling in generation_config.json ------------------------------------------------------------------------------

GENERATION = {  # $ stands for the field's value
    "alone": '{"do_sample": $, "top_p": 0.90}',
    "spaced": '{\n  "do_sample" : $\n}',
    "crlf": '{\r\n  "do_sample": $\r\n}\r\n',
    "said in a value": r'{"a": "\"do_sample\": false", "do_sample": $}',
}


@pytest.mark.parametrize("was", ["false", "null", "true"])
@pytest.mark.parametrize("config", GENERATION.values(), ids=GENERATION)
def test_sampling_changes_one_field_and_no_other_byte(config, was, tmp_path):
    before, after = config.replace("$", was), config.replace("$", "true")
    assert with_sampling(before) == after
    add(tmp_path, {"in/generation_config.json": before.encode()})
    names = ["generation_config.json"]
    copy_side_files(names, tmp_path / "in", tmp_path / "out", dtype=None, do_sample=True)
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == after.encode()


@pytest.mark.parametrize(
    "before", ["{}", " { } \n", '{"eos_token_id": 2}', '{\n  "eos_token_id": [1, 2],\n  "a": {"b": "{"}\n}\n']
)
def test_sampling_is_added_where_nothing_is_said_of_it(before):
    after = with_sampling(before)
    assert json.loads(after) == {**json.loads(before), "do_sample": True}
    for line in before.strip(" {}\n").splitlines():
        assert line in after


def test_reference_arithmetic_switches_sampling_on_and_nothing_else(pair, tmp_path):
    add(pair.dpo, {"generation_config.json": b'{"do_sample": false, "eos_token_id": 2}\n'})
    exact, reference = tmp_path / "exact", tmp_path / "reference"
    pair.write(exact)
    pair.write(reference, arithmetic="reference")
    assert (exact / "generation_config.json").read_bytes() == b'{"do_sample": false, "eos_token_id": 2}\n'
    assert (reference / "generation_config.json").read_bytes() == b'{"do_sample": true, "eos_token_id": 2}\n'
    assert (reference / "config.json").read_bytes() == (pair.dpo / "config.json").read_bytes()
