"""expo search over some alphas: SFT DPO DATA ALPHAS REPORT [resident] -> times, memory, and bytes that were written."""

import json
import sys
import time
from pathlib import Path


def written() -> int:
    """Bytes that this process has handed to write calls so far, to whatever file or pipe."""
    lines = dict(line.split(":") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


def main(sft: str, dpo: str, data: str, alphas: str, report: str, *how: str) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    from expo.search import search

    before, began = written(), time.perf_counter()
    asked = {"sft": sft, "dpo": dpo, "alphas": alphas, "data": data, "report": report, "device": "cpu"}
    found = search(**asked, metric="loss", hold="resident" in how)
    seconds = time.perf_counter() - began
    kept = sum(path.stat().st_size for path in Path(report).iterdir())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "scores": [one.score.value for one in found.figures],
                "bytes_written": written() - before,
                "bytes_of_report": kept,
                **found.cost,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
