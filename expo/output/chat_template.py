"""Chat templates by name, and the place where transformers 5 looks for one. Knows text and files."""

import re
from collections.abc import Mapping
from pathlib import Path

from expo.output import json_edit
from expo.output.sidecars import hash_file

NAME = "chat_template.jinja"
_RIVALS = re.compile(r"(chat_template\.json|additional_chat_templates/[^/]+\.jinja)$")

# Each line ends in -#} or -%}: the templates must write no space of their own.
_ALPACA = """\
{{- bos_token | default("", true) -}}
{%- for message in messages -%}
    {%- if message["role"] == "user" -%}
        {{- "### Instruction:\\n" + message["content"] + "\\n\\n" -}}
    {%- elif message["role"] == "assistant" -%}
        {{- "### Response:\\n" + message["content"] + eos_token | default("", true) + "\\n\\n" -}}
    {%- else -%}
        {{- message["content"] + "\\n\\n" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "### Response:\\n" -}}
{%- endif -%}
"""
_CHATML = """\
{%- for message in messages -%}
    {{- "<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""
_EXAONE = """\
{%- if not messages or messages[0]["role"] != "system" -%}
    {{- "[|system|][|endofturn|]\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set closing = "" if message["role"] == "user" else "[|endofturn|]" -%}
    {{- "[|" + message["role"] + "|]" + message["content"] + closing + "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "[|assistant|]" -}}
{%- endif -%}
"""
_LLAMA3 = """\
{{- bos_token | default("<|begin_of_text|>", true) -}}
{%- for message in messages -%}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" -}}
    {{- message["content"] | trim + "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" -}}
{%- endif -%}
"""
_MISTRAL = """\
{{- bos_token | default("<s>", true) -}}
{%- set spoken = namespace(before="") -%}
{%- for message in messages -%}
    {%- if message["role"] == "system" -%}
        {%- set spoken.before = spoken.before + message["content"] + "\\n\\n" -%}
    {%- elif message["role"] == "user" -%}
        {{- "[INST] " + spoken.before + message["content"] + " [/INST]" -}}
        {%- set spoken.before = "" -%}
    {%- else -%}
        {{- " " + message["content"] | trim + eos_token | default("</s>", true) -}}
    {%- endif -%}
{%- endfor -%}
"""
TEMPLATES = {"alpaca": _ALPACA, "chatml": _CHATML, "exaone": _EXAONE, "llama3": _LLAMA3, "mistral": _MISTRAL}
MARKERS = {  # what a model must know as single tokens, or the template is only text to it
    "alpaca": (),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "exaone": ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": (),
}


def write_chat_template(template: str, target: Path, hashes: Mapping[str, str]) -> dict[str, str]:
    """Make `template` the only chat template in `target`; returns `hashes` as they are afterwards.

    hashes: name -> xxh3-128 of each side file in `target`. tokenizer_config.json loses its own template, and files
    with others go, so that every reader finds the same one.
    """
    hashes = dict(hashes)
    for name in [name for name in hashes if _RIVALS.match(name)]:
        (target / name).unlink(missing_ok=True)
        del hashes[name]
    (target / NAME).write_bytes(template.encode())
    changed = [NAME]
    config = target / "tokenizer_config.json"
    if config.name in hashes:
        text = config.read_bytes().decode("latin-1")  # which gives back every byte
        config.write_bytes(json_edit.without(text, ("chat_template",)).encode("latin-1"))
        changed.append(config.name)
    return hashes | {name: hash_file(target / name) for name in changed}
