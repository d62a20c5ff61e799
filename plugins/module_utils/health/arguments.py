# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The argument spec of health_probe; every secret is no_log in a sub-option of its own."""

from __future__ import annotations

from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import CHOICES
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec

KINDS = ["http", "tcp", "tls", "postgresql", "redis"]

THRESHOLD: dict[str, Any] = {
    "measure": {"type": "str", "required": True},
    "warning": {"type": "float"},
    "critical": {"type": "float"},
    "worse": {"type": "str", "choices": ["above", "below"]},
    "unit": {"type": "str"},
    "per_seconds": {"type": "float"},
    "of": {"type": "str"},
    "quantile": {"type": "float"},
}

CHECK: dict[str, Any] = {
    "kind": {"type": "str", "choices": KINDS, "required": True},
    "name": {"type": "str"},
    "timeout_seconds": {"type": "float"},
    "thresholds": {"type": "list", "elements": "dict", "default": [], "options": THRESHOLD,
                   "required_by": {"of": ["per_seconds"], "quantile": ["per_seconds"]},
                   "mutually_exclusive": [["of", "quantile"]]},
    "url": {"type": "str"},
    "token": {"type": "str", "no_log": True},
    "expected_status": {"type": "list", "elements": "int", "default": [200]},
    "shape": {"type": "str", "choices": list(CHOICES), "default": "auto"},
    "services": {"type": "list", "elements": "str", "default": []},
    "metrics": {"type": "list", "elements": "str", "default": []},
    "version": {"type": "str"},
    "timestamp_required": {"type": "bool", "default": False},
    "timestamp_maximum_age_seconds": {"type": "float", "default": 300},
    "host": {"type": "str"},
    "port": {"type": "int"},
    "server_name": {"type": "str"},
    "ca_file": {"type": "path"},
    "password": {"type": "str", "no_log": True},
    "user": {"type": "str"},
    "tls": {"type": "bool", "default": False},
    "login": {**login_spec()["login"], "required": False},
    "query": {"type": "str"},
    "measures": {"type": "list", "elements": "str", "default": []},
    "slow_statement_seconds": {"type": "float", "default": 1},
}

REQUIRED_BY_KIND = [
    ("kind", "http", ["url"]),
    ("kind", "tcp", ["host", "port"]),
    ("kind", "tls", ["host", "port"]),
    ("kind", "redis", ["host", "port"]),
    ("kind", "postgresql", ["login"]),
]


def argument_spec() -> dict[str, Any]:
    """The whole spec; the module's documentation says what each option means."""
    return {
        "targets": {
            "type": "list",
            "elements": "dict",
            "options": {
                "name": {"type": "str", "required": True},
                "error": {"type": "str"},
                "checks": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": CHECK,
                    "required_if": REQUIRED_BY_KIND,
                },
            },
        },
        "hosts": {"type": "list", "elements": "str"},
        "timeout_seconds": {"type": "float", "default": 5},
        "deadline_seconds": {"type": "float", "default": 60},
        "concurrency": {"type": "int", "default": 32},
        "body_limit_bytes": {"type": "int", "default": 1048576},
        "samples_file": {"type": "path"},
        "wait_for_second_sample": {"type": "bool"},
        "samples": {"type": "int", "default": 3},
        "samples_needed": {"type": "int", "default": 2},
        "samples_interval_seconds": {"type": "float", "default": 0.5},
        "show": {"type": "bool", "default": False},
        "progress_file": {"type": "path"},
    }
