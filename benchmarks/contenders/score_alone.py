"""What a search over n alphas cannot do without: load one model once, score it n times. DPO DATA N -> times, memory."""

import json
import sys
import time
from pathlib import Path


def main(dpo: str, data: str, n: str) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    import torch
    import transformers

    from expo.evaluate.metrics import metric_of
    from expo.stream.report import peak_rss

    began = time.perf_counter()
    metric = metric_of("loss", data=Path(data))
    tokenizer = transformers.AutoTokenizer.from_pretrained(dpo)
    model = transformers.AutoModelForCausalLM.from_pretrained(dpo, dtype=torch.float32).eval()
    loaded = time.perf_counter() - began
    scores = [metric.score(model, tokenizer, metric.ids) for _ in range(int(n))]
    seconds = time.perf_counter() - began
    means = [sum(one.score for one in found) / len(found) for found in scores]
    record = {"seconds": seconds, "load_seconds": loaded, "scores": means, "peak_rss_mib": peak_rss() / 2**20}
    print(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
