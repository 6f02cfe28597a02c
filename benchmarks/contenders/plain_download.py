"""The floor of reading from the Hub: the same files by ranges over N connections, each byte fetched and dropped.

Prints one JSON line: seconds from the first range to the last, and bytes.
"""

import argparse
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url

_LOCAL = threading.local()


def main() -> None:
    """Download every .safetensors of some repositories, files of all of them side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repositories", nargs="+")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--range-mib", type=float, default=8)
    args = parser.parse_args()
    step = int(args.range_mib * 2**20)
    ranges = []
    for repo_id in args.repositories:
        info = HfApi().model_info(repo_id, files_metadata=True)
        files = [file for file in info.siblings if file.rfilename.endswith(".safetensors")]
        found = []
        for file in files:
            address = get_hf_file_metadata(hf_hub_url(repo_id, file.rfilename, revision=info.sha)).location
            found += [(address, at, min(at + step, file.size)) for at in range(0, file.size, step)]
        ranges.append(found)
    # As a merge reads them: a range of each in turn.
    work = [piece for row in itertools.zip_longest(*ranges) for piece in row if piece]
    began = time.perf_counter()
    with ThreadPoolExecutor(args.connections) as pool:
        n_bytes = sum(pool.map(lambda piece: fetch(*piece), work))
    print(json.dumps({"seconds": time.perf_counter() - began, "n_bytes": n_bytes, "requests": len(work)}))


def fetch(address: str, first: int, last: int) -> int:
    """Read bytes [first, last) into this thread's buffer; returns how many came."""
    buffer = _LOCAL.__dict__.setdefault("buffer", bytearray(last - first))
    headers = {"Range": f"bytes={first}-{last - 1}", "Accept-Encoding": "identity"}
    done = 0
    with get_session().stream("GET", address, headers=headers, timeout=60.0) as response:
        response.raise_for_status()
        for piece in response.iter_raw():
            buffer[done : done + len(piece)] = piece
            done += len(piece)
    return done


if __name__ == "__main__":
    main()
