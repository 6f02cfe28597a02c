"""The card of a run from the Hub: metadata that its validator takes, licenses, revisions."""

import os

import pytest
import torch
from adapters import write_adapter
from engine import command
from huggingface_hub import ModelCard
from pico import pico_pair

from expo.checkpoint.model_card import license_of
from expo.checkpoint.spec import Source
from expo.output.card import CardInput, agreed_license, card

APACHE = "---\nlicense: apache-2.0\n---\n"
OTHER = "---\nlicense: other\nlicense_name: llama3\nlicense_link: https://example.org/LICENSE\n---\n"


@pytest.fixture
def carded(hub, tmp_path, monkeypatch, capsys):
    """Run sft and dpo, whose cards are given, into out; returns the card of out."""
    monkeypatch.chdir(tmp_path)

    def run(sft, dpo, *more):
        pico_pair(tmp_path)
        for name, text in (("sft", sft), ("dpo", dpo)):
            (tmp_path / name / "README.md").write_text(text)
            hub.add(f"tester/{name}", tmp_path / name)
        pair = ["--sft", "tester/sft", "--dpo", "tester/dpo", "--stream"]
        code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", "--quiet", *more)
        assert code == 0, err
        return ModelCard.load(tmp_path / "out" / "README.md")

    return run


def test_the_hubs_validator_takes_the_card_and_reads_what_the_run_was(hub, carded):
    found = carded(APACHE, APACHE, "--push-to", "tester/out")
    found.validate(repo_type="model")
    assert any(asked.path == "/api/validate-yaml" for asked in hub.asked)
    data = found.data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert data.base_model == ["tester/sft", "tester/dpo"] and data.to_dict()["base_model_relation"] == "merge"
    assert {"expo", "merge", "extrapolate"} <= set(data.tags)
    assert "README.md" in hub.repositories["tester/out"].head.files


def test_every_input_stands_with_its_revision_beside_recipe_figures_and_citation(hub, carded):
    text = carded(APACHE, APACHE).content
    for name in ("sft", "dpo"):
        sha = hub.repositories[f"tester/{name}"].head.sha
        assert f"| {name} | tester/{name} | {sha} |" in text
    assert "aligned + alpha * (aligned - base)" in text and '"alpha": 0.3' in text
    assert "| asked alpha | effective alpha | cosine with the exact change |" in text
    assert "## Citation" in text and "2404.16792" in text


def test_an_adapters_license_counts_like_a_models(hub, carded, tmp_path, capsys):
    carded(APACHE, APACHE)
    q_proj = "model.layers.0.self_attn.q_proj.lora"
    factors = {f"{q_proj}_A.weight": torch.ones(1, 16), f"{q_proj}_B.weight": torch.ones(16, 1)}
    adapter = write_adapter(tmp_path / "adapter", factors, r=1)
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.add("tester/adapter", adapter)
    pair = ["--sft", "tester/sft", "--dpo", "tester/sft+tester/adapter", "-o", "adapted", "--quiet"]
    assert command(capsys, "extrapolate", *pair)[0] == 0
    found = ModelCard.load(tmp_path / "adapted" / "README.md")
    assert found.data.base_model == ["tester/sft", "tester/adapter"] and found.data.license is None
    assert "tester/sft: apache-2.0; tester/adapter: mit." in found.content


def test_a_license_of_its_own_name_is_taken_over_whole(hub, carded):
    found = carded(OTHER, OTHER)
    found.validate(repo_type="model")
    data = found.data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "llama3")
    assert data["license_link"] == "https://example.org/LICENSE"


@pytest.mark.parametrize("sft", [OTHER, "# no card", "---\nlicense: [mit\n---\n", "---\nlicense: 3\n---\n"])
def test_licenses_that_do_not_agree_are_named_and_none_is_claimed(carded, sft):
    found = carded(sft, APACHE)
    assert found.data.license is None
    assert "Licenses of the inputs: " in found.content and "tester/dpo: apache-2.0" in found.content


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff---\nlicense: mit\n---\n",
        "\n\n---\r\nlicense: mit\r\n---\r\n",
        "---\n'license' : \"mit\" # as before\n---\n",
        "---\nlicense:\n  mit\n---\n",
        "---\nlicense: >-\n  mit\nwidget: [unclosed\n---\n",
        "---\ntags:\n- a\nlicense:\n- mit\nlanguage:\n- no\n---\n",
    ],
)
def test_a_license_is_read_however_its_line_is_written(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert license_of(Source("", tmp_path, (), None, ())) == {"license": "mit"}


def test_several_licenses_that_agree_are_taken_over_together_and_else_named(carded):
    both = "---\nlicense:\n- mit\n- apache-2.0\nextra_gated_fields:\n  license: checkbox\n---\n"
    found = carded(both, "---\nlicense: [mit, apache-2.0]\n---\n")
    found.validate(repo_type="model")
    assert found.data.license == ["mit", "apache-2.0"]


def test_what_is_no_agreement_is_named_with_its_link():
    other = {"license": "other", "license_link": "https://example.org/L"}
    stated = [CardInput("a", "a", None, license=other), CardInput("b", "b", None, license={"license": ["mit", "gpl"]})]
    made = card("linear", "f", "", {}, stated, {"multiple": None})
    assert "a: other (https://example.org/L); b: mit, gpl." in made and ModelCard(made).data.license is None


def test_a_folder_whose_name_is_no_text_is_named_as_far_as_it_is(carded, hub, tmp_path, capsys):
    carded(APACHE, APACHE)
    strange = os.fsdecode(b"s\xffft: \"'|\n#")
    (tmp_path / "sft").rename(tmp_path / strange)
    pair = ["--sft", f"./{strange}", "--dpo", "tester/dpo", "--push-to", "tester/strange"]
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "strange", "--quiet")
    assert code == 0, err
    text = (tmp_path / "strange" / "README.md").read_text()
    assert "| sft | s\ufffdft: \"'\\| # | local |" in text
    ModelCard(text).validate(repo_type="model")
    assert command(capsys, "verify", "strange", "--quiet")[0] == 0


@pytest.mark.parametrize("text", ["my own", "Apache 2.0", "other"])
def test_a_license_that_the_hub_does_not_know_is_named_but_not_claimed(text):
    stated = [CardInput(role, role, None, license={"license": text}) for role in ("a", "b")]
    made = card("linear", "f", "", {}, stated, {"multiple": None})
    assert agreed_license(stated) == {} and f"a: {text}; b: {text}" in made
    assert ModelCard(made).data.license is None


def test_without_any_license_nothing_is_said(carded):
    found = carded("# a", "# b")
    assert found.data.license is None and "license" not in found.content


def test_one_license_of_three_that_is_missing_is_no_agreement():
    stated = [CardInput(str(k), str(k), None, license={"license": "mit"} if k else {}) for k in range(3)]
    assert agreed_license(stated[1:]) == {"license": "mit"} and agreed_license(stated) == {}


def test_what_a_search_found_stands_in_the_card():
    effective = {"alpha": 0.3, "multiple": 1.0, "cosine": 1.0}
    text = card("extrapolate", "f", "", {}, [], effective, None, {"summary": "Alpha 0.3 scored best of five."})
    assert "Alpha 0.3 scored best of five." in text


def test_no_name_of_a_folder_breaks_the_table():
    text = card("linear", "f", "", {}, [CardInput("a|b", "x\n| y |", None)], {"multiple": None})
    row = next(line for line in text.splitlines() if line.startswith(r"| a\|b"))
    assert row == r"| a\|b | x \| y \| | local |"
