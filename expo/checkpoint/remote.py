"""One file on the Hub, read by HTTP ranges at one commit. Knows addresses, redirects and retries; no tensors.

The Hub redirects a large file to a signed address on another host. That address is kept for all ranges and asked for
again when it has expired; the token goes to the Hub alone, and no address is ever shown.
"""

import hashlib
import re
import threading
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from expo.checkpoint.hub_errors import LONGEST_WAIT, refusal
from expo.checkpoint.range_answer import Fault, check_answer, take_body, wait_asked
from expo.checkpoint.storage import ANSWER_S, answer_to, transport
from expo.errors import ChangedFile, ExpoError, HubBadAnswer, HubError, HubUnreachable, Interrupted

WAITS = (0.0, 0.2, 0.8, 2.0, 5.0, 10.0)  # seconds before another try, as long as nothing arrives
WAITS_AFTER_NONSENSE = WAITS[:3]  # where a server answers, but not as HTTP wants it


class _Passing(Exception):
    """Carries a Fault out of the question where the bytes are."""


class RemoteFile:
    """A file of a repository at a commit: what identifies it, where its bytes are now, and what was seen of them.

    etag: the Hub's name of the content: SHA-256 for a large file, git's name of the blob for one kept in git.
    Safe from any thread.
    """

    def __init__(self, repo_id: str, revision: str, name: str, n_bytes: int, etag: str):
        self.repo_id, self.revision, self.name = repo_id, revision, name
        self.n_bytes, self.etag = n_bytes, etag
        self.lock = threading.Lock()
        self.given_up = threading.Event()  # set: nobody waits for it any more
        self.head = b""  # the first bytes, kept from the first request
        self.digest = _digest_for(etag, n_bytes)
        self.n_digested = 0  # bytes from the first on that the digest has seen
        self._address: str | None = None  # where the Hub says that the bytes are
        self._content: tuple[str, str] | None = None  # the storage's path of the bytes, and its own ETag of them

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.repo_id}@{self.revision}/{self.name}"

    @property
    def is_checked(self) -> bool:
        """Whether every byte was read, in order, and is what the Hub's hash says."""
        return self.n_digested == self.n_bytes and self.is_sound

    @property
    def is_sound(self) -> bool:
        """False once all bytes were read and their hash is not the Hub's."""
        return self.n_digested < self.n_bytes or self.digest is None or self.digest.hexdigest() == self.etag

    def record(self) -> dict[str, str]:
        """What a manifest says of how it was read."""
        return {"etag": self.etag, "checked": "every byte, by its hash" if self.is_checked else "commit, etag, size"}

    def refuse_unsound(self) -> None:
        """Raise ChangedFile where the bytes that were read are not those of the Hub's hash."""
        if not self.is_sound:
            raise ChangedFile(
                f"{self.label}: its bytes have another hash than the Hub states ({self.etag}).",
                "It was damaged on the way, or changed while it was read: run the command again.",
            )

    def read_head(self, n_bytes: int) -> None:
        """Keep the first bytes, which hold the header."""
        if not self.head:
            head = bytearray(min(n_bytes, self.n_bytes))
            self.read_into(memoryview(head), 0)
            self.head = bytes(head)

    def read_into(self, out: memoryview, at: int) -> None:
        """Fill `out` with bytes [at, at + len(out)); a range that breaks off is continued where it broke.

        Raises a HubError that names the repository, ChangedFile where the file is not the one that was planned with.
        """
        done = failures = idle = 0
        while done < len(out):
            n_bytes, fault = self._try(out[done:], at + done)
            done += n_bytes
            if fault is None and n_bytes:
                continue
            fault = fault or Fault("an empty answer", is_nonsense=True)
            idle = 1 if n_bytes else idle + 1
            failures += 1
            waits = WAITS_AFTER_NONSENSE if fault.is_nonsense else WAITS
            if idle > len(waits) or failures > len(waits) + len(out) // 65_536:  # no byte at a time for ever
                raise self._lost(fault, at + done, failures)
            if self.given_up.wait(max(waits[idle - 1], min(fault.wait, LONGEST_WAIT))):
                raise Interrupted("interrupted")

    def _try(self, out: memoryview, at: int) -> tuple[int, Fault | None]:
        """One request: how many bytes came, and what went wrong, if that may pass; else raises."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        broken = (transport().HTTPError, HTTPException, OSError)
        try:
            address = self._where()
            with answer_to(address, self._headers(address, at, len(out)), of_hub=_is_hub(address)) as answer:
                fault = self._look_at(answer, address, at, len(out))
                return (0, fault) if fault else take_body(answer, out, broken)
        except ExpoError:
            raise
        except _Passing as question:
            return 0, question.args[0]
        except OfflineModeIsEnabled:
            raise HubUnreachable(
                f"{self.repo_id}: HF_HUB_OFFLINE is set.", "Unset it, or leave out --stream."
            ) from None
        except HfHubHTTPError as error:
            return 0, self._refused(error)
        except broken as error:
            return 0, Fault(f"the connection failed: {type(error).__name__}")

    def _look_at(self, answer: Any, address: str, at: int, n_bytes: int) -> Fault | None:
        """What is wrong with an answer before its body is read; None where it is the range that was asked for."""
        if answer.status_code in (401, 403) and not _is_hub(address):
            self._forget(address)  # the signature has expired
            return Fault("the storage refuses the signed address", status=answer.status_code)
        if 300 <= answer.status_code < 400 and "location" in answer.headers:
            self._forget(address)
            return Fault("a redirect from where the bytes should be", is_nonsense=True)
        if answer.status_code in (401, 403, 404) and _is_hub(address):
            raise refusal(_error_of(answer.response), self.repo_id, self.revision)
        if answer.status_code == 416:
            raise self._changed(f"it has no byte {at} any more")
        fault = check_answer(answer, at, n_bytes, self.n_bytes)
        if fault is None:
            self._check_content(answer, address)
        elif fault.total is not None:
            raise self._changed(f"{fault.total} bytes, {self.n_bytes} when it was listed")
        return fault

    def _check_content(self, answer: Any, address: str) -> None:
        """The ETag stays what it was. A storage has its own, which is compared under one path only."""
        etag = answer.headers.get("etag", "").removeprefix("W/").strip('"')
        if _is_hub(address):
            if etag and etag != self.etag:
                raise self._changed(f"ETag {etag}, {self.etag} when it was listed")
            return
        content = urlsplit(address).path, etag
        with self.lock:
            before, self._content = self._content, content
        if before and before[0] == content[0] and before[1] != etag:
            raise self._changed(f"ETag {etag}, {before[1]} before")

    def _where(self) -> str:
        """The address of the bytes: the one that is known, else the Hub is asked, by one thread for all."""
        with self.lock:
            if self._address is None:
                self._address = self._ask()
            return self._address

    def _ask(self) -> str:
        """Where the Hub says that the bytes are; raises ChangedFile where they are no longer the same."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.repo_id, self.name, revision=self.revision, endpoint=constants.ENDPOINT)
        found = get_hf_file_metadata(url, timeout=ANSWER_S)
        if found.commit_hash is None or found.etag is None:
            what = f"{constants.ENDPOINT} answers, but not as the Hub does"
            remedy = "Check the network (a login page, a proxy?) and HF_ENDPOINT"
            raise _Passing(Fault(what, is_nonsense=True, remedy=remedy))
        if found.commit_hash != self.revision:
            raise self._changed(f"served from commit {found.commit_hash}")
        if found.etag != self.etag:
            raise self._changed(f"ETag {found.etag}, {self.etag} when it was listed")
        if found.size is not None and found.size != self.n_bytes:
            raise self._changed(f"{found.size} bytes, {self.n_bytes} when it was listed")
        if urlsplit(constants.ENDPOINT).scheme == "https" != urlsplit(found.location).scheme:
            raise HubBadAnswer(f"{self.label}: the Hub redirects to an address without encryption.", "Try again later.")
        return found.location

    def _forget(self, address: str) -> None:
        with self.lock:
            if self._address == address:  # else another thread has a new one already
                self._address = None

    def _headers(self, address: str, at: int, n_bytes: int) -> dict[str, str]:
        """The request's headers: the token for the Hub itself, for no other host."""
        from huggingface_hub.utils import build_hf_headers

        asked = {"Range": f"bytes={at}-{at + n_bytes - 1}", "Accept-Encoding": "identity"}
        known = build_hf_headers() if _is_hub(address) else build_hf_headers(token=False)
        return {**known, **asked}

    def _refused(self, error: Any) -> Fault:
        """What the Hub's refusal of an address means: a fault that may pass, or an error that does not."""
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            return Fault(f"status {status}", status=status, wait=wait_asked(error.response.headers))
        raise refusal(error, self.repo_id, self.revision) from None

    def _changed(self, what: str) -> ChangedFile:
        return ChangedFile(f"{self.label}: changed after it was listed ({what}).", "Run the command again.")

    def _lost(self, fault: Fault, at: int, failures: int) -> HubError:
        """The error when patience has ended."""
        where = f"{self.label}: byte {at} cannot be read; {failures} tries, the last: {fault.what}."
        if fault.is_nonsense:
            return HubBadAnswer(where, f"{fault.remedy or 'Try again later'}; or leave out --stream to download.")
        if fault.status == 429:
            return HubError(where, "The Hub limits the rate of requests: wait some minutes, and log in.")
        return HubUnreachable(where, "Check the connection; the same command continues.")


def _is_hub(address: str) -> bool:
    """Whether an address is the Hub's own, which alone gets the token."""
    from huggingface_hub import constants

    mine, hub = urlsplit(address), urlsplit(constants.ENDPOINT)
    return (mine.scheme, mine.hostname, _port(mine)) == (hub.scheme, hub.hostname, _port(hub))


def _port(address: Any) -> int:
    return address.port or (443 if address.scheme == "https" else 80)


def _error_of(response: Any) -> Exception:
    """huggingface_hub's error for a refusal."""
    from huggingface_hub.utils import hf_raise_for_status

    response.read()
    try:
        hf_raise_for_status(response)
    except Exception as error:
        return error
    return HubError("")


def _digest_for(etag: str, n_bytes: int) -> Any:
    """The hash that the Hub's ETag is of; None where it is none that is known."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return hashlib.sha256()
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        return hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)  # git's name of a blob
    return None
