"""expo's engine with its arithmetic alone: no hashes, no NaN check, no effective alpha.

The command line offers no such run; a checkpoint that nobody can verify is only good for a benchmark.
"""

import argparse
import json

import expo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sft")
    parser.add_argument("dpo")
    parser.add_argument("out")
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    plan = expo.plan(expo.extrapolation(sft=args.sft, dpo=args.dpo, alpha=args.alpha))
    report = expo.run(plan, args.out, checks=False, threads=args.threads)
    print(json.dumps({"seconds": report.seconds}))


if __name__ == "__main__":
    main()
