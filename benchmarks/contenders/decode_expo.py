"""One expert and ensembles, decoding the same prompts in turns; prints seconds and tokens as one JSON line."""

import json
import sys
import tempfile
import time
from pathlib import Path

from expo.generate import Sampling, generate, load
from expo.generate.members import Members


def main(model: str, rows: str, sizes: list[int], rounds: int, tokens: int, temperature: float) -> None:
    sampling = Sampling(max_tokens=tokens, min_tokens=tokens, temperature=temperature)
    experts = [load(model) for _ in range(max(sizes))]  # each with weights of its own, as different experts have
    ensembles = {n: Members(experts[:n], [1.0 + place for place in range(n)]) if n > 1 else experts[0] for n in sizes}
    seconds: dict[int, list[float]] = {n: [] for n in sizes}
    cpu_seconds: dict[int, list[float]] = {n: [] for n in sizes}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, rounds):  # the first warms up: weights are loaded, threads started
            for n in sizes[turn % len(sizes) :] + sizes[: turn % len(sizes)]:
                began = time.process_time()
                report = generate(ensembles[n], rows, Path(folder) / f"{turn}-{n}.jsonl", sampling=sampling)
                if turn >= 0:
                    seconds[n].append(report.seconds)
                    cpu_seconds[n].append(time.process_time() - began)
                    print(f"round {turn + 1}, experts: {n}, {report.seconds:.2f} s", file=sys.stderr, flush=True)
    told = {"tokens": report.n_tokens, "device": str(experts[0].model.device)}
    print(json.dumps({**told, "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    model, rows, sizes, rounds, tokens, temperature = sys.argv[1:]
    main(model, rows, json.loads(sizes), int(rounds), int(tokens), float(temperature))
