"""What every benchmark needs to be believed: a child's time and memory, the page cache's state, the machine.

Does not know what is measured. Imports neither torch nor expo, and must not: Linux starts a child's peak RSS at its
parent's, so a large parent would hide a small child.
"""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

MIB = 1 << 20


class ChildFailed(Exception):
    """A contender ended with an error; the message is the end of what it printed."""


@dataclass(frozen=True)
class Child:
    """What one finished process cost, and what it printed on stdout."""

    wall_s: float
    cpu_s: float
    peak_rss_mib: float
    stdout: str

    def report(self) -> dict:
        """The JSON object that stdout is, or that its last line is; empty where there is none."""
        text = self.stdout.strip()
        for candidate in (text, text.rpartition("\n")[2]):
            if candidate.startswith("{"):
                with suppress(json.JSONDecodeError):
                    return json.loads(candidate)
        return {}


def run_child(command: list[str], threads: int) -> Child:
    """Run a command to its end in an empty folder, offline, with `threads` threads for torch's own operations.

    Raises ChildFailed if it cannot start or exits with an error.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as cwd, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        try:
            child = subprocess.Popen(command, stdout=out, stderr=err, cwd=cwd, env=environment)
        except OSError as error:
            raise ChildFailed(str(error)) from error
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            said = err.read().decode(errors="replace").strip().splitlines() or ["(nothing on stderr)"]
            raise ChildFailed(f"exit {child.returncode}: {said[-1]}")
        return Child(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MIB, out.read().decode())


def warm(paths: Iterable[Path]) -> None:
    """Read every file once, so that the page cache holds it."""
    buffer = bytearray(MIB)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cool(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget every file's pages; pages that are dirty or mapped stay."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest, to four significant digits."""
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def memory_mib(field: str) -> int:
    """One line of /proc/meminfo, such as MemTotal or MemAvailable."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines[field].split()[0]) // 1024


def machine() -> dict:
    """Processor, cores that this process may use, memory, kernel, and how busy it was just now."""
    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory_mib("MemTotal"),
        "kernel": os.uname().release,
        "load_before": round(os.getloadavg()[0], 2),
    }


def filesystem(folder: Path) -> str:
    """The type of the file system a folder lies on: tmpfs, ext4, ..."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holders = [(len(at), kind) for at, kind in mounts if folder.resolve().is_relative_to(at)]
    return max(holders)[1] if holders else "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version and those of the installed packages, without importing them."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def keep(area: str, line: dict) -> None:
    """Put a benchmark's line beside what else was measured in its area on that day: results/AREA-DATE.json."""
    path = Path(__file__).resolve().parent / "results" / f"{area}-{line['date']}.json"
    path.parent.mkdir(exist_ok=True)
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | {line["benchmark"]: line}, indent=2) + "\n")
