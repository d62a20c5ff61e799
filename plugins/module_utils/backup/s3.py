# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A bucket of an S3 store: objects put in parallel parts and checked by the server, read back, listed, removed.

Nothing is ever overwritten: all are put with `If-None-Match: *`, and say in their metadata which process wrote them.

A multipart object's SHA-256 at the server is the hash of its parts' hashes, followed by their number, and never that of
the file: so a manifest keeps both, with the size of a part (Amazon S3 User Guide, "Checking object integrity").
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Stored
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

with contextlib.suppress(ImportError):  # connect() tells the operator
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionClosedError,
        ConnectTimeoutError,
        EndpointConnectionError,
        ReadTimeoutError,
        SSLError,
    )
    from botocore.utils import parse_timestamp
    from s3transfer.manager import TransferConfig, TransferManager

MIB = 1 << 20
# S3 takes at most 10,000 parts of an object; this many keep a part's size round and leave room for growth.
MOST_PARTS = 9_000
LEAST_PART_BYTES = 8 * MIB
PARALLEL_PARTS = 4
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS = 10, 60, 4
DELETE_BATCH = 1000
WRITER = "writer"
# The answers to a put where there is an object already.
THERE = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
DEFAULT_PORTS = {"http": 80, "https": 443}

# What an operator has to do, by the code of S3's answer.
NEXT_STEPS = {
    "RequestTimeTooSkewed": "Set this host's clock (timedatectl, chronyc tracking), then start it again.",
    "InvalidAccessKeyId": "Look at s3.access_key of the store in the inventory; the server does not know it.",
    "SignatureDoesNotMatch": "Look at s3.secret_key of the store in the inventory; it does not fit the access key.",
    "AccessDenied": "Give this access key the right to list, read and write below the prefix, then start it again.",
    "NoSuchBucket": "Create the bucket, or mend s3.bucket of the store in the inventory.",
    "PermanentRedirect": "The bucket is in another region: mend s3.region and s3.endpoint_url of the store.",
    "AuthorizationHeaderMalformed": "The bucket is in another region: mend s3.region of the store.",
    "IllegalLocationConstraintException": "The bucket is in another region: mend s3.region of the store.",
    "BadDigest": "The bytes changed on their way to the store: look at the network, then start it again.",
    "XAmzContentChecksumMismatch": "The bytes changed on their way to the store: look at the network, then try again.",
    "InvalidBucketName": "Mend s3.bucket of the store in the inventory: 3 to 63 lower-case letters, digits and dashes.",
    "InvalidRequest": "Look at the store's options: the server does not support one of them (Object Lock, encryption).",
    "NoSuchKey": "Somebody removed it: choose another backup of the catalog, and look at who may delete there.",
    "SlowDown": "The store asks for fewer requests: start it again later.",
}
# An answer to HEAD has no body, so its code is only the HTTP status.
CODES_OF_STATUS = {"301": "PermanentRedirect", "403": "AccessDenied", "404": "NoSuchKey"}
OTHER_STEP = "Look at the store and the way to it, then start it again."


@dataclass(frozen=True)
class Bucket:
    """Where the objects are; see the documentation of the `store` option for each."""

    endpoint_url: str | None
    bucket: str
    prefix: str
    region: str | None
    access_key: str | None
    secret_key: str | None
    ca_bundle: str | None = None
    server_side_encryption: str | None = None
    kms_key_id: str | None = None
    object_lock_mode: str | None = None
    object_lock_days: int | None = None

    @property
    def endpoint(self) -> str:
        """The same for all spellings of an endpoint; empty for Amazon's own, where a bucket's name is the only one."""
        parts = urlsplit((self.endpoint_url or "").strip())
        host = (parts.hostname or "").rstrip(".")
        if host == "amazonaws.com" or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return ""
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
        return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}" if host else ""


class AlreadyThereError(RunbookError):
    """Another process has put an object of this name; it is left as it is."""


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing has it; `modified_at` is by the server's clock."""

    key: str
    bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class Body:
    """What is read of an object: the checksum that the server states, if any (see manifest.Stored), and its bytes."""

    checksum: str | None
    chunks: Iterator[bytes]


class PartHasher:
    """The checksum that the server gives an object, computed on the way to it."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._whole, self._part, self._room = hashlib.sha256(), hashlib.sha256(), part_bytes
        self._parts: list[bytes] = []
        self.bytes = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the object."""
        self._whole.update(chunk)
        self.bytes += len(chunk)
        view = memoryview(chunk)
        while view:
            piece = view[: self._room]
            self._part.update(piece)
            self._room -= len(piece)
            view = view[len(piece):]
            if not self._room:
                self._parts.append(self._part.digest())
                self._part, self._room = hashlib.sha256(), self._part_bytes

    @property
    def sha256(self) -> str:
        """Of all bytes, hexadecimal."""
        return self._whole.hexdigest()

    def checksum(self) -> str:
        """As S3 states it; an object below one part is sent whole."""
        if self.bytes < self._part_bytes:
            return base64.b64encode(self._whole.digest()).decode()
        parts = self._parts + ([self._part.digest()] if self._room < self._part_bytes else [])
        return f"{base64.b64encode(hashlib.sha256(b''.join(parts)).digest()).decode()}-{len(parts)}"


class HashingReader:
    """A stream that can be read once, and whose bytes are hashed while they are."""

    def __init__(self, stream: BinaryIO, hasher: PartHasher) -> None:
        self._stream, self._hasher = stream, hasher

    def read(self, size: int = -1) -> bytes:
        """The next bytes; empty at the end."""
        chunk = self._stream.read(size)
        self._hasher.update(chunk)
        return chunk


def moment_of(text: str) -> datetime:
    """A time of S3. botocore's own way takes two thirds of the time of a long list."""
    with contextlib.suppress(TypeError, ValueError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo:
            return moment
    return parse_timestamp(text)


def part_bytes_for(size: int) -> int:
    """A part's size for an object of about `size` bytes: 8 MiB, or more where the object would have too many parts."""
    return max(LEAST_PART_BYTES, -(-size // MOST_PARTS // MIB) * MIB)


def sentence(error: Exception, bucket: Bucket, doing: str) -> RunbookError:
    """What S3 or the way to it said, in one sentence with the next step."""
    place = f"s3://{bucket.bucket}"
    where = bucket.endpoint_url or "Amazon's endpoint"
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        code = CODES_OF_STATUS.get(str(answer.get("Code")), str(answer.get("Code")))
        said = " ".join(str(answer.get("Message") or "no further words").split()).rstrip(".")
        return RunbookError(
            f"{doing} {place} failed: {where} answered {code} ({said}).", NEXT_STEPS.get(code, OTHER_STEP), code=code
        )
    if isinstance(error, SSLError):
        hint = "Give the certificate authority's file as s3.ca_bundle of the store, or renew the server's certificate."
        return RunbookError(f"{doing} {place} failed: {where} has no certificate that is trusted here.", hint)
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError, ConnectionClosedError)):
        return RunbookError(
            f"{doing} {place} failed: {where} does not answer, or hung up in the middle ({type(error).__name__}).",
            "Look at the server and the network between, then start it again: nothing incomplete counts as a backup.",
        )
    return RunbookError(f"{doing} {place} failed: {' '.join(str(error).split())}.", OTHER_STEP)


@contextlib.contextmanager
def s3_errors(bucket: Bucket, doing: str) -> Iterator[None]:
    """Turn every error of S3 into a sentence."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise sentence(error, bucket, doing) from error


def _put_no_other(params: dict[str, Any], **_unused: Any) -> None:
    """Refuse to overwrite."""
    params["IfNoneMatch"] = "*"


@contextlib.contextmanager
def endpoint_errors(bucket: Bucket) -> Iterator[None]:
    """Turn what botocore says of an address that is none into a sentence."""
    try:
        yield
    except ValueError as error:
        raise RunbookError(
            f"The endpoint {bucket.endpoint_url!r} of the bucket {bucket.bucket!r} cannot be used: {error}.",
            "Mend s3.endpoint_url of the store in the inventory, as https://s3.example.org.",
        ) from error


class S3Bucket:
    """Talks to one bucket, below one prefix.

    Args:
        bucket: where.

    Raises:
        RunbookError: boto3 is not installed, or the options do not go together.
    """

    def __init__(self, bucket: Bucket) -> None:
        if "boto3" not in globals():
            raise RunbookError(
                "The Python package boto3, which talks to S3, is not installed on this host.",
                "Install it for the interpreter that Ansible uses here: pip install boto3.",
            )
        if bool(bucket.object_lock_mode) != bool(bucket.object_lock_days):
            raise RunbookError(
                f"s3.object_lock_mode is {bucket.object_lock_mode!r} and s3.object_lock_days is"
                f" {bucket.object_lock_days!r}.", "Give both, or neither.",
            )
        self.bucket, self.writer = bucket, secrets.token_hex(8)
        with s3_errors(bucket, "Preparing"), endpoint_errors(bucket):
            core = botocore.session.Session()
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment_of)
            session = boto3.session.Session(
                bucket.access_key, bucket.secret_key, region_name=bucket.region, botocore_session=core
            )
            self._client = session.client(
                "s3", endpoint_url=bucket.endpoint_url, verify=bucket.ca_bundle,
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, max_pool_connections=32,
                    retries={"max_attempts": ATTEMPTS, "mode": "standard"},
                    # Servers other than Amazon's seldom have a name for each bucket. What is sent has its checksum
                    # among the headers that are signed: to hash it once more would prove nothing.
                    s3={"addressing_style": "path" if bucket.endpoint_url else "auto",
                        "payload_signing_enabled": False},
                ),
            )
        # Here, since s3transfer does not let this through.
        for operation in ("PutObject", "CompleteMultipartUpload"):
            self._client.meta.events.register(f"before-parameter-build.s3.{operation}", _put_no_other)

    def require(self) -> None:
        """Make sure that the bucket is there and may be listed.

        Raises:
            RunbookError: see NEXT_STEPS.
        """
        with s3_errors(self.bucket, "Listing"):
            self._client.list_objects_v2(Bucket=self.bucket.bucket, Prefix=self._key(""), MaxKeys=1)

    def put(self, key: str, stream: BinaryIO, part_bytes: int) -> Stored:
        """Store a stream as one object, checked by the server part by part, and compare what it says it has.

        Args:
            key: below the prefix.
            stream: read once, to its end.
            part_bytes: see part_bytes_for.

        Raises:
            AlreadyThereError: another process wrote it.
            RunbookError: it could not be stored; an upload that was begun is aborted.
        """
        hasher = PartHasher(part_bytes)
        settings = TransferConfig(
            multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_request_concurrency=PARALLEL_PARTS,
            max_in_memory_upload_chunks=PARALLEL_PARTS, max_submission_concurrency=1,
        )
        with self._putting(key), TransferManager(self._client, settings) as manager:
            reader = HashingReader(stream, hasher)
            manager.upload(reader, self.bucket.bucket, self._key(key), extra_args=self._extra()).result()
        kept = self._head(key)
        self._compare(key, kept, hasher.bytes, hasher.checksum())
        return Stored(hasher.bytes, hasher.sha256, part_bytes, kept.get("ChecksumSHA256"))

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a few bytes as one object.

        Raises:
            AlreadyThereError: another process wrote it.
            RunbookError: they could not be stored.
        """
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        extra = {name: value for name, value in self._extra().items() if name != "ChecksumAlgorithm"}
        with self._putting(key):
            self._client.put_object(
                Bucket=self.bucket.bucket, Key=self._key(key), Body=data, ChecksumSHA256=digest, **extra
            )

    def require_refusal(self, key: str) -> None:
        """Make sure that the server does not overwrite an object that is there.

        Raises:
            RunbookError: it does.
        """
        with s3_errors(self.bucket, f"Writing {key} to"):
            try:
                self._client.put_object(Bucket=self.bucket.bucket, Key=self._key(key), Body=b"")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in THERE:
                    return
                raise
        raise RunbookError(
            f"{self.bucket.endpoint_url or 'The server'} overwrote {self.url(key)}, though it was asked not to"
            " (If-None-Match).",
            "Two machines could destroy each other's backups there: use a server that knows conditional writes.",
        )

    def read(self, key: str) -> bytes:
        """A small object, whole.

        Raises:
            RunbookError: it is not there or cannot be read.
        """
        with self.open(key) as body:
            return b"".join(body.chunks)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Body]:
        """An object, its bytes in pieces of 1 MiB.

        Raises:
            RunbookError: it is not there, or the way to it broke.
        """
        doing = f"Reading {key} from"
        with s3_errors(self.bucket, doing):
            answer = self._client.get_object(Bucket=self.bucket.bucket, Key=self._key(key), ChecksumMode="ENABLED")
        with contextlib.closing(answer["Body"]):
            yield Body(answer.get("ChecksumSHA256"), self._chunks(answer["Body"], doing))

    def _chunks(self, body: Any, doing: str) -> Iterator[bytes]:
        """What is read, with errors that name this bucket, also when it is on its way into another one."""
        with s3_errors(self.bucket, doing):
            yield from body.iter_chunks(MIB)

    def writer_of(self, key: str) -> str | None:
        """Which process wrote an object; None where there is none.

        Raises:
            RunbookError: nobody can know.
        """
        try:
            return self._head(key)["Metadata"].get(WRITER, "")
        except RunbookError as error:
            if error.context.get("code") == "NoSuchKey":
                return None
            raise

    def written_by(self, prefix: str, writer: str) -> list[str]:
        """The objects below a prefix that one process wrote.

        Raises:
            RunbookError: nobody can know.
        """
        return [one.key for one in self.list(prefix) if self.writer_of(one.key) == writer]

    def locked_until(self, key: str) -> datetime | None:
        """Until when Object Lock keeps an object; None where nothing does.

        Raises:
            RunbookError: nobody can know.
        """
        return self._head(key).get("ObjectLockRetainUntilDate")

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below a prefix, by name; one request for each thousand.

        Raises:
            RunbookError: they cannot be listed.
        """
        whole = self._key(prefix)
        cut = len(self._key(""))
        with s3_errors(self.bucket, "Listing"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket.bucket, Prefix=whole
            ):
                for one in page.get("Contents", []):
                    yield StoredObject(one["Key"][cut:], one["Size"], one["LastModified"])

    def folders(self, prefix: str) -> Iterator[str]:
        """The names directly below a prefix that end in `/`, without it; one request for each thousand.

        Raises:
            RunbookError: they cannot be listed.
        """
        whole = self._key(prefix)
        with s3_errors(self.bucket, "Listing"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket.bucket, Prefix=whole, Delimiter="/"
            ):
                for one in page.get("CommonPrefixes", []):
                    yield one["Prefix"][len(whole) :].rstrip("/")

    def url(self, key: str) -> str:
        """An object's name, as people write it."""
        return f"s3://{self.bucket.bucket}/{self._key(key)}"

    def delete(self, keys: list[str]) -> None:
        """Remove objects. In a bucket with versions, as one with Object Lock, they are only hidden by delete markers.

        Raises:
            RunbookError: one of them stays.
        """
        for start in range(0, len(keys), DELETE_BATCH):
            batch = [{"Key": self._key(key)} for key in keys[start : start + DELETE_BATCH]]
            with s3_errors(self.bucket, "Removing from"):
                answer = self._client.delete_objects(
                    Bucket=self.bucket.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            if errors := answer.get("Errors"):
                raise RunbookError(
                    f"{len(errors)} of {len(batch)} objects stay in s3://{self.bucket.bucket}, the first is"
                    f" {errors[0].get('Key')}: {errors[0].get('Code')} ({errors[0].get('Message')}).",
                    "Look at the rights of the access key.",
                )

    def abort_unfinished(self, prefix: str) -> int:
        """End uploads that a killed writer left unfinished and that cost room unseen; returns how many."""
        ended = 0
        with s3_errors(self.bucket, "Listing unfinished uploads in"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket.bucket, Prefix=self._key(prefix)
            )
            for upload in [one for page in pages for one in page.get("Uploads", [])]:
                self._client.abort_multipart_upload(
                    Bucket=self.bucket.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
                ended += 1
        return ended

    def _key(self, key: str) -> str:
        return f"{self.bucket.prefix.strip('/')}/{key}" if self.bucket.prefix.strip("/") else key

    def _extra(self) -> dict[str, Any]:
        bucket = self.bucket
        extra: dict[str, Any] = {"ChecksumAlgorithm": "SHA256", "Metadata": {WRITER: self.writer}}
        if bucket.server_side_encryption:
            extra["ServerSideEncryption"] = bucket.server_side_encryption
        if bucket.kms_key_id:
            extra["SSEKMSKeyId"] = bucket.kms_key_id
        if bucket.object_lock_mode:
            extra["ObjectLockMode"] = bucket.object_lock_mode.upper()
            extra["ObjectLockRetainUntilDate"] = datetime.now(UTC) + timedelta(days=bucket.object_lock_days)
        return extra

    @contextlib.contextmanager
    def _putting(self, key: str) -> Iterator[None]:
        """Put an object. When the answer was lost and it was sent again, what is there is this process's own."""
        with s3_errors(self.bucket, f"Writing {key} to"):
            try:
                yield
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in THERE:
                    raise
                writer = self.writer_of(key)
                if writer is None:
                    raise
                if writer != self.writer:
                    raise AlreadyThereError(
                        f"{self.url(key)} is there already, and another process wrote it.",
                        "Nothing there is overwritten: look at who else writes there.",
                    ) from error

    def _head(self, key: str) -> dict[str, Any]:
        with s3_errors(self.bucket, f"Looking at {key} in"):
            return self._client.head_object(Bucket=self.bucket.bucket, Key=self._key(key), ChecksumMode="ENABLED")

    def _compare(self, key: str, kept: dict[str, Any], size: int, checksum: str) -> None:
        found = kept.get("ChecksumSHA256")
        if kept["ContentLength"] != size or found not in (None, checksum):
            raise RunbookError(
                f"s3://{self.bucket.bucket} says that {key} has {kept['ContentLength']} bytes and the checksum {found},"
                f" and {size} bytes with {checksum} were sent.",
                "Do not trust this store: look at its log, and at what stands between it and this host.",
            )
