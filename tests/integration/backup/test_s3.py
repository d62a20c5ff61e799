"""What the store modules rely on of a real S3 server (SeaweedFS)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Stored
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import (
    MIB,
    AlreadyThereError,
    Bucket,
    S3Bucket,
    part_bytes_for,
    sentence,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from botocore.exceptions import ClientError

from tests.unit.backup.conftest import manifest_of


def put(bucket: S3Bucket, key: str, data: bytes, part_bytes: int = 8 * MIB) -> Stored:
    return bucket.put(key, io.BytesIO(data), part_bytes)


@pytest.mark.parametrize(
    ("size", "parts"), [(0, 0), (1, 0), (8 * MIB - 1, 0), (8 * MIB, 1), (8 * MIB + 1, 2), (20 * MIB, 3)]
)
def test_an_object_is_stored_with_the_checksum_that_the_server_computed_itself(
    bucket: Bucket, size: int, parts: int
) -> None:
    """A82 ⚠: no checksum. A multipart object's checksum is that of its parts' checksums."""
    data, store = os.urandom(size), S3Bucket(bucket)
    stored = put(store, "one", data)
    assert (stored.bytes, stored.sha256) == (size, hashlib.sha256(data).hexdigest())
    with store.open("one") as body:
        assert body.checksum == stored.checksum
    whole = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert stored.checksum.endswith(f"-{parts}") if parts else stored.checksum == whole
    assert store.read("one") == data


def test_ten_thousand_parts_are_never_needed() -> None:
    """S3 refuses an object with more parts; a terabyte in one table must still fit."""
    for size in (0, 100 * MIB, 1 << 40, 5 << 40):
        assert part_bytes_for(size) >= 8 * MIB
        assert size / part_bytes_for(size) <= 9_000


REFUSED = [
    ({"bucket": "absent-bucket"}, "NoSuchBucket", "mend s3.bucket"),
    ({"secret_key": "wrong"}, "SignatureDoesNotMatch", "does not fit the access key"),
    ({"access_key": "nobody"}, "InvalidAccessKeyId", "does not know it"),
    ({"endpoint_url": "http://127.0.0.1:9"}, "does not answer", "network between"),
]


@pytest.mark.parametrize(("change", "said", "step"), REFUSED)
def test_what_is_wrong_with_a_store_is_one_sentence_and_a_next_step(
    bucket: Bucket, change: dict[str, str], said: str, step: str
) -> None:
    wrong = replace(bucket, **change)
    with pytest.raises(RunbookError) as caught:
        S3Bucket(wrong).require()
    assert said in caught.value.message
    assert step in caught.value.hint
    assert bucket.secret_key not in str(caught.value)


SAID = [
    ("RequestTimeTooSkewed", "PutObject", "RequestTimeTooSkewed", "Set this host's clock"),
    ("AccessDenied", "PutObject", "AccessDenied", "the right to list, read and write below the prefix"),
    ("403", "HeadObject", "AccessDenied", "the right to list, read and write below the prefix"),
    ("PermanentRedirect", "ListObjectsV2", "PermanentRedirect", "in another region: mend s3.region"),
    ("301", "HeadObject", "PermanentRedirect", "in another region: mend s3.region"),
    ("AuthorizationHeaderMalformed", "ListObjectsV2", "AuthorizationHeaderMalformed", "mend s3.region"),
    ("IllegalLocationConstraintException", "PutObject", "IllegalLocationConstraintException", "mend s3.region"),
    ("404", "HeadObject", "NoSuchKey", "Somebody removed it"),
    ("InternalError", "PutObject", "InternalError", "Look at the store and the way to it"),
]


@pytest.mark.parametrize(("code", "operation", "said", "step"), SAID)
def test_what_a_server_answers_is_one_sentence_and_a_next_step(
    bucket: Bucket, code: str, operation: str, said: str, step: str
) -> None:
    """Also answers that SeaweedFS does not give, which takes any region; of clocks the fault matrix asks it."""
    answer = ClientError({"Error": {"Code": code, "Message": "Their\n words."}}, operation)
    error = sentence(answer, bucket, "Writing x to")
    assert error.message.startswith(f"Writing x to s3://backups failed: {bucket.endpoint_url} answered {said} (Their")
    assert "\n" not in error.message
    assert step in error.hint


READ, ADD = ("s3:Get*", "s3:List*"), ("s3:Get*", "s3:List*", "s3:PutObject")


@pytest.fixture
def limited(bucket: Bucket) -> Callable[[tuple[str, ...]], Bucket]:
    """The bucket, with a key that may only do so much."""
    def make(actions: tuple[str, ...]) -> Bucket:
        iam, name = boto3.client(
            "iam", endpoint_url=bucket.endpoint_url, aws_access_key_id=bucket.access_key,
            aws_secret_access_key=bucket.secret_key, region_name="us-east-1",
        ), f"limited-{os.urandom(4).hex()}"
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        places = [f"arn:aws:s3:::{bucket.bucket}", f"arn:aws:s3:::{bucket.bucket}/*"]
        rights = [{"Effect": "Allow", "Action": list(actions), "Resource": places}]
        iam.put_user_policy(
            UserName=name, PolicyName=name, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": rights})
        )
        return replace(bucket, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])

    return make


def test_a_key_that_may_only_read_is_told_as_such(limited: Callable[..., Bucket], tmp_path: Path) -> None:
    where = limited(READ)
    S3Bucket(where).require()
    place = TargetBucket(where, "bakery_ia", "orders-db", Privacy(work_directory=tmp_path))
    with pytest.raises(RunbookError, match="AccessDenied") as caught, place.making("20261121T021500Z-3fa9"):
        pass
    assert "the right to list, read and write" in caught.value.hint


def test_a_key_that_may_not_remove_is_enough_for_a_second_store(
    limited: Callable[..., Bucket], tmp_path: Path
) -> None:
    """B38: who takes over the machine that copies there cannot remove what is there."""
    place = TargetBucket(limited(ADD), "bakery_ia", "orders-db", Privacy(work_directory=tmp_path))
    with place.making("20261121T021500Z-3fa9"):
        place.put("20261121T021500Z-3fa9", "data/toc.dat", io.BytesIO(b"rows"), 4)
        place.publish(manifest_of())
    assert place.ids() == ["20261121T021500Z-3fa9"]
    with pytest.raises(RunbookError, match="AccessDenied"):
        place.remove("20261121T021500Z-3fa9")


def test_an_endpoint_that_is_none_is_a_sentence(bucket: Bucket) -> None:
    with pytest.raises(RunbookError, match="cannot be used: Invalid endpoint"):
        S3Bucket(replace(bucket, endpoint_url="s3 example org"))


def test_nothing_is_overwritten(bucket: Bucket) -> None:
    """X15: by no process, in one part or several; what a process wrote itself is there."""
    first, second = S3Bucket(bucket), S3Bucket(bucket)
    for size in (10, 9 * MIB):
        data, name = os.urandom(size), f"one-{size}"
        put(first, name, data)
        put(first, name, data)
        for write in (lambda name=name, size=size: put(second, name, os.urandom(size)),
                      lambda name=name: second.put_bytes(name, b"x")):
            with pytest.raises(AlreadyThereError):
                write()
        assert first.read(name) == data


def test_objects_are_listed_by_name_and_removed(bucket: Bucket) -> None:
    store = S3Bucket(bucket)
    for name in ("a/2", "a/1", "b/1"):
        store.put_bytes(name, name.encode())
    assert [one.key for one in store.list("a/")] == ["a/1", "a/2"]
    assert [one.bytes for one in store.list("")] == [3, 3, 3]
    store.delete(["a/1", "a/2"])
    assert [one.key for one in store.list("")] == ["b/1"]


def test_an_upload_that_a_killed_writer_left_is_ended(bucket: Bucket) -> None:
    store = S3Bucket(bucket)
    store._client.create_multipart_upload(Bucket=bucket.bucket, Key=f"{bucket.prefix}/data/x")
    assert store.abort_unfinished("data/y") == 0, "another one's"
    assert store.abort_unfinished("data/") == 1
    assert store.abort_unfinished("data/") == 0


def test_a_server_that_is_gone_in_the_middle_is_told_as_such(bucket: Bucket) -> None:
    class Gone(io.RawIOBase):
        def read(self, _size: int = -1) -> bytes:
            raise RunbookError("The disk is gone.", "Look at it.")

    with pytest.raises(RunbookError, match="The disk is gone"):
        S3Bucket(bucket).put("x", Gone(), 8 * MIB)
    assert not list(S3Bucket(bucket).list("x"))


def test_a_retention_needs_both_its_options(bucket: Bucket) -> None:
    with pytest.raises(RunbookError, match="object_lock_days is None"):
        S3Bucket(replace(bucket, object_lock_mode="governance"))
