"""A rendered chat is what the recipe asks for: a named format, the commonest template, or the donor's own."""

import json

import pytest
from jinja2 import Environment
from tiny_tokenizers import byte_level, model

from expo.output.chat_template import MARKERS, TEMPLATES, write_chat_template
from expo.output.sidecars import copy_side_files, hash_file
from expo.output.tokenizer import write_tokenizer
from expo.planning.chat_template import choose_chat_template, template_of
from expo.planning.tokenizer import with_tokenizer
from expo.recipe.tokenizer import TokenizerSpec

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And {3}?\n"},
]
CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
OWN = "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}{{ eos_token }}"

EXPECTED = {
    "alpaca": (
        "<s>Be brief.\n\n### Instruction:\nWhat is 2+2?\n\n### Response:\n4</s>\n\n"
        "### Instruction:\nAnd {3}?\n\n\n### Response:\n"
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nAnd {3}?\n<|im_end|>\n<|im_start|>assistant\n"
    ),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n[|user|]What is 2+2?\n[|assistant|]4[|endofturn|]\n"
        "[|user|]And {3}?\n\n[|assistant|]"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd {3}?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s>[INST] Be brief.\n\nWhat is 2+2? [/INST] 4</s>[INST] And {3}?\n [/INST]",
}


def rendered(folder, chat=CHAT, **more):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        chat, tokenize=False, **{"add_generation_prompt": True, **more}
    )


def donor(folder, template=None, **files):
    config = {**CONFIG, **({"chat_template": template} if template is not None else {})}
    sides = {"tokenizer_config.json": json.dumps(config, indent=2), **files}
    return model(folder, byte_level(added=["<s>", "</s>"]), side_files=sides)


def output_of(checkpoint, target, wanted, inputs=None):
    """The donor's side files with the template that was wanted; their hashes must be true."""
    chosen = choose_chat_template(wanted, inputs or {"A": checkpoint})
    assert not chosen.problems
    target.mkdir()
    source = checkpoint.source
    hashes = copy_side_files(source.side_files, source.folder, target, dtype=None, do_sample=False)
    hashes = write_chat_template(chosen.text, target, hashes)
    assert hashes == {str(path.relative_to(target)): hash_file(path) for path in target.rglob("*") if path.is_file()}
    return target


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_named_template_renders_its_format(name, tmp_path):
    out = output_of(donor(tmp_path / "A", OWN), tmp_path / "out", name)
    assert rendered(out) == EXPECTED[name]
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())


def test_a_chat_may_begin_with_the_user(tmp_path):
    out = output_of(donor(tmp_path / "A"), tmp_path / "out", "exaone")
    assert rendered(out, CHAT[1:2]) == "[|system|][|endofturn|]\n[|user|]What is 2+2?\n[|assistant|]"
    out = output_of(donor(tmp_path / "B"), tmp_path / "out2", "mistral")
    assert rendered(out, CHAT[1:3], add_generation_prompt=False) == "<s>[INST] What is 2+2? [/INST] 4</s>"


def test_a_template_of_the_recipes_own_is_rendered(tmp_path):
    wanted = "{% for m in messages %}é{{ m['content'] }}|{% endfor %}"
    out = output_of(donor(tmp_path / "A", OWN), tmp_path / "out", wanted)
    assert rendered(out, CHAT[:2]) == "éBe brief.|éWhat is 2+2?|"
    assert (out / "chat_template.jinja").read_text() == wanted


def test_every_other_template_goes(tmp_path):
    files = {
        "chat_template.jinja": OWN,
        "chat_template.json": json.dumps({"chat_template": OWN}),
        "additional_chat_templates/tool_use.jinja": OWN,
    }
    checkpoint = donor(tmp_path / "A", OWN, **files)
    out = output_of(checkpoint, tmp_path / "out", "chatml")
    assert rendered(out) == EXPECTED["chatml"]
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert left == {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_only_the_template_leaves_the_config(tmp_path):
    text = '{\r\n "a": "é",\n "chat_template": "{{ 1 }}",\n\t"bos_token" : "<s>"\n}'
    checkpoint = donor(tmp_path / "A", **{"tokenizer_config.json": text})
    out = output_of(checkpoint, tmp_path / "out", "chatml")
    assert (out / "tokenizer_config.json").read_bytes() == '{\r\n "a": "é",\n "bos_token" : "<s>"\n}'.encode()


# --- auto ------------------------------------------------------------------------------------------------------------


def inputs_with(tmp_path, *templates):
    return {str(number): donor(tmp_path / str(number), template) for number, template in enumerate(templates)}


def test_auto_takes_the_commonest(tmp_path):
    chosen = choose_chat_template("auto", inputs_with(tmp_path, None, "{{ 1 }}", "{{ 2 }}", "{{ 2 }}"))
    assert (chosen.text, chosen.notes) == ("{{ 2 }}", ["chat_template: 2 of 3 inputs have the one that is written."])


def test_auto_takes_the_first_of_equals(tmp_path):
    inputs = inputs_with(tmp_path, "{{ 2 }}", "{{ 1 }}", "{{ 1 }}", "{{ 2 }}")
    assert choose_chat_template("auto", inputs).text == "{{ 2 }}"
    turned = dict(reversed(inputs.items()))
    assert choose_chat_template("auto", {**turned}).text == "{{ 2 }}"
    del inputs["0"], inputs["1"]
    assert choose_chat_template("auto", inputs).text == "{{ 1 }}"


def test_auto_without_any_writes_none_and_says_so(tmp_path):
    chosen = choose_chat_template("auto", inputs_with(tmp_path, None, None))
    assert chosen.text is None and "no input has a chat template" in chosen.notes[0] and not chosen.problems


def test_a_template_is_found_wherever_transformers_looks(tmp_path):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert template_of(donor(tmp_path / "1", named)) == "d"
    assert template_of(donor(tmp_path / "2", "old", **{"chat_template.jinja": "new"})) == "new"
    assert template_of(donor(tmp_path / "3", **{"chat_template.json": '{"chat_template": "p"}'})) == "p"
    assert template_of(donor(tmp_path / "4")) is None


# --- Without the entry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["config", "file"])
@pytest.mark.parametrize("source", ["base", "union"])
def test_without_the_entry_a_rendered_chat_is_the_donors(place, source, tmp_path):
    a = donor(tmp_path / "A", OWN) if place == "config" else donor(tmp_path / "A", **{"chat_template.jinja": OWN})
    extended = byte_level(["über die brücke"], 300, added=["<s>", "</s>", "<|x|>"])
    inputs = {
        "A": a,
        "B": model(tmp_path / "B", extended, side_files={"tokenizer_config.json": '{"chat_template": "no"}'}),
    }
    plan = with_tokenizer(TokenizerSpec(source), inputs, "A")
    out = tmp_path / "out"
    out.mkdir()
    hashes = copy_side_files(a.source.side_files, a.source.folder, out, dtype=None, do_sample=False)
    write_tokenizer(plan.files, out, hashes)
    assert rendered(out) == rendered(tmp_path / "A") != ""
    from transformers import AutoTokenizer

    loaded, before = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(tmp_path / "A")
    assert loaded.get_vocab() == plan.rows
    assert loaded("the cat sat</s>").input_ids == before("the cat sat</s>").input_ids
    assert (loaded.bos_token_id, loaded.eos_token_id) == (before.bos_token_id, before.eos_token_id)
    ids = range(len(before))
    assert [loaded.decode([row]) for row in ids] == [before.decode([row]) for row in ids]


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_an_unknown_name_offers_the_nearest():
    (problem,) = choose_chat_template("chat-ml", {}).problems
    assert "Did you mean 'chatml'?" in problem and "llama3" in problem


def test_a_broken_template_names_its_line():
    (problem,) = choose_chat_template("{% for m in messages %}\n{{ m }\n{% endfor %}", {}).problems
    assert "line 2" in problem


def test_transformers_own_blocks_are_no_mistake():
    wanted = "{% for m in messages %}{%- generation %}{{ m }}{% endgeneration -%}{% break %}{% endfor %}"
    assert choose_chat_template(wanted, {}).text == wanted


def test_a_tokenizer_config_that_is_no_json_is_named(tmp_path):
    inputs = {"A": donor(tmp_path / "A", **{"tokenizer_config.json": "{"})}
    (problem,) = choose_chat_template("auto", inputs).problems
    assert "tokenizer_config.json" in problem


@pytest.mark.parametrize("name", TEMPLATES)
def test_markers_that_the_vocabulary_lacks_are_told(name):
    chat = [*CHAT, {"role": "assistant", "content": "."}]
    rendered_text = Environment().from_string(TEMPLATES[name]).render(messages=chat)
    assert all(marker in rendered_text for marker in MARKERS[name])
    assert choose_chat_template(name, {}, known=MARKERS[name]).notes == []
    notes = choose_chat_template(name, {}, known=["a"]).notes
    assert bool(notes) == bool(MARKERS[name]) and all(marker in notes[0] for marker in MARKERS[name])
