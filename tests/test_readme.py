"""What README shows from Python works as it stands there."""

import re
from pathlib import Path

import torch
import yaml
from live import save_pair

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_block_runs_and_both_ways_to_extrapolate_write_the_same_weights(tmp_path, monkeypatch, capsys):
    pair = save_pair(tmp_path, tied=True, dtype=torch.bfloat16)
    for name, role in (("A", "sft"), ("B", "dpo")):
        pair[role].rename(tmp_path / name)
    recipe = {"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 1}} for name in "AB"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    exec(compile(re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1], "README.md", "exec"), {})
    alpha, cosine = map(float, capsys.readouterr().out.split()[-2:])
    assert alpha != 0 and 0 < cosine <= 1
    shards = sorted(path.name for path in (tmp_path / "OUT").glob("*.safetensors"))
    assert shards and (tmp_path / "MERGED" / "expo.json").is_file()
    assert all((tmp_path / "OUT" / name).read_bytes() == (tmp_path / "OUT2" / name).read_bytes() for name in shards)
