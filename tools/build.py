# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection as a file, and proof that it works where nothing of this repository is.

It is installed below an empty folder; its playbooks are started by their full names from an empty working directory
with an empty home, first for their syntax, then health.yml for real against a small server.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from tools.repository import NAMESPACE, ROOT, playbooks

OUTPUT = ROOT / "build" / "collection"
BIN = Path(sys.executable).parent
# Nothing else belongs into the file: what is for work on the collection stays here.
CONTENT = {
    "CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "changelogs", "docs", "extensions",
    "inventories", "meta", "playbooks", "plugins", "requirements.txt", "roles",
}
Done = subprocess.CompletedProcess[str]


def build() -> Path:
    """Build the file; returns its path.

    Raises:
        subprocess.CalledProcessError: ansible-galaxy failed.
    """
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for old in OUTPUT.glob("*.tar.gz"):
        old.unlink()
    subprocess.run(
        [str(BIN / "ansible-galaxy"), "collection", "build", "--force", "--output-path", str(OUTPUT)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True,
    )
    return next(OUTPUT.glob("*.tar.gz"))


def strangers(archive: Path) -> list[str]:
    """What is in the file and does not belong there."""
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    return [name for name in names if name.partition("/")[0] not in CONTENT or "__pycache__" in name]


class EmptyPlace:
    """A folder with nothing but the installed collection: home and working directory are empty."""

    def __init__(self, folder: Path) -> None:
        self.collections = folder / "collections"
        self.home = folder / "home"
        self.work = folder / "work"
        for path in (self.collections, self.home, self.work):
            path.mkdir()

    def run(self, program: str, *arguments: str) -> Done:
        """Run one of Ansible's programs there, with as little environment as a scheduler gives."""
        environment = {
            "HOME": str(self.home), "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.run(
            [str(BIN / program), *arguments], cwd=self.work, env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300,
        )

    def install(self, archive: Path) -> Done:
        """Install the file."""
        return self.run(
            "ansible-galaxy", "collection", "install", "--offline", str(archive), "-p", str(self.collections)
        )

    def check_syntax(self, playbook: str) -> Done:
        """`ansible-playbook <full name> --syntax-check`."""
        return self.run("ansible-playbook", f"{NAMESPACE}{playbook}", "--syntax-check")

    def health(self, url: str) -> Done:
        """The health sweep of a platform that is one service."""
        inventory = self.work.parent / "inventory.yml"
        host = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "health_checks": [{"kind": "http", "name": "health", "url": f"{url}/health", "shape": "checks"}],
        }
        inventory.write_text(yaml.safe_dump({"services": {"hosts": {"shop": host}}}), encoding="utf-8")
        return self.run("ansible-playbook", "-i", str(inventory), f"{NAMESPACE}health")


@contextmanager
def small_service(status: str) -> Iterator[str]:
    """A service whose /health has this status word; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({
                "status": status, "timestamp": datetime.now(UTC).isoformat(), "checks": {"database": {"status": "up"}}
            }).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def problems(archive: Path, place: EmptyPlace) -> Iterator[tuple[str, str]]:
    """Each step's name with what is wrong with it; empty when nothing is."""
    yield "holds only what belongs to it", ", ".join(strangers(archive))

    def judged(done: Done, good: bool) -> str:
        return "" if good else f"exit code {done.returncode}\n{done.stdout}"

    done = place.install(archive)
    yield "installs into an empty folder", judged(done, done.returncode == 0)
    for path in playbooks():
        done = place.check_syntax(path.stem)
        yield f"{NAMESPACE}{path.stem}: syntax", judged(done, done.returncode == 0)
    with small_service("healthy") as url:
        done = place.health(url)
    yield f"{NAMESPACE}health says that a healthy service is ok", judged(done, done.returncode == 0)
    with small_service("down") as url:
        done = place.health(url)
    yield f"{NAMESPACE}health fails on a service that is down", judged(done, done.returncode != 0)


def main() -> int:
    """Build, and prove each step."""
    archive = build()
    print(archive.relative_to(ROOT), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for step, problem in problems(archive, EmptyPlace(Path(folder))):
            print(f"{'FAILED' if problem else 'ok    '} {step}", flush=True)
            if problem:
                print(problem, file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
