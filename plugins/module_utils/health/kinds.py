# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who carries out which kind of check. Libraries are imported only when a check of that kind is carried out."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.module_utils.health.network import probe_tcp, probe_tls
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import Answer, Request
from ansible_collections.sre.runbooks.plugins.module_utils.health.redis import probe_redis
from ansible_collections.sre.runbooks.plugins.module_utils.health.web import probe_http


def _probe_postgresql(request: Request) -> Answer:
    from ansible_collections.sre.runbooks.plugins.module_utils.health.postgresql import probe_postgresql

    return probe_postgresql(request)


PROBES = {
    "http": probe_http,
    "tcp": probe_tcp,
    "tls": probe_tls,
    "postgresql": _probe_postgresql,
    "redis": probe_redis,
}
