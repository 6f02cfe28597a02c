"""The output's README.md: its YAML is read by the Hub, its figures are the run's, and it cites."""

import json
import re

import pytest
import yaml
from crash import small_pair, tree

from expo.output.card import CardInput, card
from expo.output.manifest import manifest
from expo.version import __version__

RECIPE = {"parameters": {"alpha": 0.3}, "dtype": None, "rounding": "nearest", "seed": 0}
EFFECTIVE = {"alpha": 0.2876, "multiple": 0.9587, "cosine": 0.9912, "groups": {}}
HUB = [
    CardInput("base", "org/sft@" + "a" * 40, "org/sft"),
    CardInput("aligned", "org/dpo@" + "b" * 40, "org/dpo"),
]
LOCAL = [CardInput("base", "sft", None), CardInput("aligned", "dpo", None)]


def made(inputs=LOCAL, recipe=RECIPE, effective=EFFECTIVE, paper="arXiv:2404.16792"):
    return card("extrapolate", "aligned + alpha * (aligned - base)", paper, recipe, inputs, effective)


def parts(text):
    """(metadata, body)."""
    _, head, body = re.split(r"^---$\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), body


def test_the_metadata_is_yaml_that_the_hub_reads():
    text = made(HUB)
    assert text.startswith("---\n")
    metadata, _ = parts(text)
    assert metadata == {
        "base_model": ["org/sft", "org/dpo"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["expo", "merge", "extrapolate"],
    }


def test_the_hub_librarys_own_reader_finds_the_same_metadata():
    from huggingface_hub import ModelCard

    found = ModelCard(made(HUB)).data
    assert found.base_model == ["org/sft", "org/dpo"]
    assert found.library_name == "transformers"


def test_local_inputs_are_no_base_model():
    metadata, body = parts(made(LOCAL))
    assert "base_model" not in metadata and "base_model_relation" not in metadata
    assert "| base | sft |" in body and "| aligned | dpo |" in body


def test_one_repository_at_two_revisions_is_named_once_as_base_model():
    same = [CardInput("base", "org/m@" + "a" * 40, "org/m"), CardInput("aligned", "org/m@" + "b" * 40, "org/m")]
    metadata, body = parts(made(same))
    assert metadata["base_model"] == ["org/m"]
    assert "a" * 40 in body and "b" * 40 in body


@pytest.mark.parametrize("label", ["a: b", "#1", "- x", "'", '"', "é 中文", "{x}", "[y]", "@z", "%", "null", "1.0"])
def test_no_name_of_an_input_breaks_the_metadata(label):
    metadata, body = parts(made([CardInput("base", label, label), CardInput("aligned", "dpo", None)]))
    assert metadata["base_model"] == [label]
    assert f"| base | {label} |" in body


def test_the_card_cites_the_paper():
    text = made()
    assert "## Citation" in text
    assert "Model Extrapolation Expedites Alignment" in text and "https://arxiv.org/abs/2404.16792" in text
    assert "Chujie Zheng" in text


def test_a_paper_that_has_no_full_entry_is_still_named():
    assert "arXiv:1234.56789" in made(paper="arXiv:1234.56789")
    assert "Citation" not in made(paper="")


def test_asked_and_effective_alpha_stand_side_by_side():
    _, body = parts(made())
    assert "| asked alpha | effective alpha | cosine with the exact change |" in body
    assert "| 0.3 | 0.2876 | 0.9912 |" in body


def test_an_alpha_of_zero_has_no_figures():
    _, body = parts(made(effective={"alpha": None, "multiple": None, "cosine": None, "groups": {}}))
    assert "No tensor was to change." in body and "None" not in body


def test_every_row_of_a_table_has_its_columns():
    _, body = parts(made(HUB))
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        columns = {row.count("|") for row in table.splitlines()}
        assert len(columns) == 1, table


def test_the_recipe_can_be_read_back_from_the_card():
    _, body = parts(made())
    block = re.search(r"```json\n(.*?)\n```", body, re.DOTALL)[1]
    assert json.loads(block) == {"method": "extrapolate", **RECIPE}


# --- The card and the manifest of a run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The same run twice, of inputs in two places, by other numbers of threads."""
    made = []
    for threads in (1, 2):
        tmp = tmp_path_factory.mktemp(f"run{threads}")
        small_pair(tmp).write(tmp / f"out{threads}", threads=threads)
        made.append(tmp / f"out{threads}")
    return made


def test_two_equal_runs_have_equal_cards_and_manifests(outputs):
    one, other = outputs
    assert (one / "README.md").read_bytes() == (other / "README.md").read_bytes()
    assert (one / "expo.json").read_bytes() == (other / "expo.json").read_bytes()
    assert tree(one) == tree(other)


def test_card_and_manifest_name_no_path_time_or_thread(outputs):
    for name in ("README.md", "expo.json"):
        text = (outputs[0] / name).read_text()
        for told in (str(outputs[0].parent), "/tmp", "threads", "seconds", "mtime", "hostname"):
            assert told not in text, (name, told)


def test_the_card_of_a_run_parses_cites_and_agrees_with_the_manifest(outputs):
    metadata, body = parts((outputs[0] / "README.md").read_text())
    said = json.loads((outputs[0] / "expo.json").read_text())
    assert metadata["library_name"] == "transformers"
    assert "2404.16792" in body and __version__ in body
    assert f"| {said['recipe']['parameters']['alpha']} | {said['effective']['alpha']} |" in body
    assert said["expo"] == __version__ and said["inputs"]["sft"]["label"] == "sft"
    block = re.search(r"```json\n(.*?)\n```", body, re.DOTALL)[1]
    assert json.loads(block) == {"method": "extrapolate", **said["recipe"]}


def test_the_manifest_states_every_file_of_the_output_but_itself_the_card_and_the_index(outputs):
    said = json.loads((outputs[0] / "expo.json").read_text())
    files = {name for name, content in tree(outputs[0]).items() if content != "folder"}
    assert {*said["files"], *said["side_files"]} == files - {"expo.json", "README.md", "model.safetensors.index.json"}
    for name, stated in said["files"].items():
        assert stated["n_bytes"] == (outputs[0] / name).stat().st_size


def test_a_manifest_holds_what_it_is_given_and_nothing_else():
    content = manifest({"r": 1}, {"i": 2}, {"f": 3}, {"s": "4"}, {"t": "5"}, {"e": 6}, ("left",))
    assert content == {
        "format": 1,
        "expo": __version__,
        "recipe": {"r": 1},
        "inputs": {"i": 2},
        "effective": {"e": 6},
        "files": {"f": 3},
        "side_files": {"s": "4"},
        "left_out": ["left"],
        "tensors": {"t": "5"},
    }
