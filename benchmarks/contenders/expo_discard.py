"""expo's engine into a sink that discards: everything but the writing, so that the disk need not hold the output."""

import argparse
import json
import time

import expo
from expo.stream.loop import Stream, settings_for
from expo.stream.report import peak_rss
from expo.stream.workers import carry_out


class Discard:
    """A sink that takes bytes and keeps none."""

    def __init__(self):
        self.finished: dict = {}

    def write(self, job, start: int, data: memoryview) -> None:
        """Nothing."""

    def record(self, index: int, segment: int, finished) -> None:
        """Nothing."""

    def let_go(self) -> None:
        """Nothing is held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sft")
    parser.add_argument("dpo")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    plan = expo.plan(expo.extrapolation(sft=args.sft, dpo=args.dpo))
    stream = Stream(plan, Discard(), settings_for(plan), ahead=args.threads)
    began = time.perf_counter()
    forks = carry_out(stream, args.threads)
    seconds = time.perf_counter() - began
    figures = {"n_bytes_read": plan.n_bytes_read, "n_bytes_written": plan.n_bytes_written}
    print(json.dumps({"seconds": seconds, "all_rss_mib": (peak_rss() + forks) / 2**20, **figures}))


if __name__ == "__main__":
    main()
