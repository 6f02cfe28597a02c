"""The file of `expo generate --format alpaca_eval` through alpaca_eval's own reader, judge loop and leaderboard.

The judge is a stand-in that prefers the longer answer: the real ones need a key. Skipped without alpaca_eval.
"""

import json
import re

import pytest
from click.testing import CliRunner

from expo.cli.generate import generate as command

TEMPLATE = "<|im_start|>user\nQ {instruction}\nm: {output_1}\nM: {output_2}\n<|im_end|>\n"
JUDGE = """
longer:
  prompt_template: {template}
  fn_completions: openai_completions
  fn_completion_parser: regex_parser
  completion_parser_kwargs: {{outputs_to_match: {{1: first, 2: second}}}}
  batch_size: 1
"""


def longer(prompts, **settings) -> dict:
    """Prefers the longer of two answers, as a judge's completions."""
    found = []
    for prompt in prompts:
        one, other = re.search(r"m: (.*)\nM: (.*)\n<\|im_end\|>", str(prompt), re.DOTALL).groups()
        found.append("first" if len(one) > len(other) else "second")
    n = len(found)
    return {"completions": found, "price_per_example": [0.0] * n, "time_per_example": [0.0] * n}


def test_alpaca_eval_reads_our_file_and_puts_it_on_a_leaderboard(tmp_path, folder, monkeypatch):
    pytest.importorskip("alpaca_eval", exc_type=ImportError)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import alpaca_eval

    asked = [
        {"dataset": "made", "instruction": f"Say {i}.", "output": "x" * 7 * i, "generator": "reference"}
        for i in range(9)
    ]
    reference, ours, template = (tmp_path / name for name in ("reference.json", "ours.json", "template.txt"))
    reference.write_text(json.dumps(asked))
    template.write_text(TEMPLATE)
    words = ["--model", folder, "--data", reference, "--chat", "--preset", "expo-paper", "--max-tokens", "25"]
    words += ["--format", "alpaca_eval", "-o", ours, "--quiet"]
    done = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(ours.read_text())
    judge = tmp_path / "judge"
    judge.mkdir()
    (judge / "configs.yaml").write_text(JUDGE.format(template=template))
    monkeypatch.setattr("alpaca_eval.annotators.base.get_fn_completions", lambda name: longer)
    board, notes = alpaca_eval.evaluate(
        model_outputs=str(ours), reference_outputs=str(reference), annotators_config=str(judge),
        fn_metric="get_winrate", sort_by="win_rate", precomputed_leaderboard=None, output_path=None,
        is_return_instead_of_print=True, caching_path=None, is_cache_leaderboard=False,
    )  # fmt: skip
    wins = sum(len(row["output"]) > len(one["output"]) for row, one in zip(rows, asked, strict=True))
    (name,) = board.index
    assert name == rows[0]["generator"] == str(folder) or name == folder.name
    assert board["n_total"].iloc[0] == len(asked) == len(notes)
    assert 0 < wins < len(asked) and board["win_rate"].iloc[0] == pytest.approx(100 * wins / len(asked))
    assert board["avg_length"].iloc[0] == int(sum(len(row["output"]) for row in rows) / len(rows))
