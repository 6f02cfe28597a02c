"""A plain parallel download: the same files by ranges over N connections, each byte fetched and dropped.

Through huggingface_hub's session, which is what its own downloads use, or (--bare) by sockets that are received from
into one buffer: the floor of what a process can do. Neither hashes nor writes. Prints one JSON line: seconds from the
first range to the last, and bytes.
"""

import argparse
import http.client
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url

_LOCAL = threading.local()


def main() -> None:
    """Download every .safetensors of some repositories, files of all of them side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repositories", nargs="+")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--range-mib", type=float, default=8)
    parser.add_argument("--bare", action="store_true", help="sockets instead of huggingface_hub's session; no TLS")
    args = parser.parse_args()
    read = fetch_bare if args.bare else fetch
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
        n_bytes = sum(pool.map(lambda piece: read(*piece), work))
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


def fetch_bare(address: str, first: int, last: int) -> int:
    """The same, over this thread's own connection."""
    where, buffer = urlsplit(address), _LOCAL.__dict__.setdefault("buffer", bytearray(last - first))
    connection = _LOCAL.__dict__.setdefault("connection", http.client.HTTPConnection(where.netloc, timeout=60))
    connection.request("GET", f"{where.path}?{where.query}", headers={"Range": f"bytes={first}-{last - 1}"})
    response = connection.getresponse()
    assert response.status == 206, response.status
    return response.readinto(memoryview(buffer)[: last - first])


if __name__ == "__main__":
    main()
