# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The argument spec behind the postgresql documentation fragment."""

from __future__ import annotations

from typing import Any

SSLMODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def login_spec() -> dict[str, Any]:
    """The `login` option; the password is no_log in its own sub-option, so it never stands in an invocation."""
    return {
        "login": {
            "type": "dict",
            "required": True,
            "options": {
                "host": {"type": "str", "required": True},
                "port": {"type": "int", "default": 5432},
                "user": {"type": "str", "required": True},
                "password": {"type": "str", "no_log": True},
                "database": {"type": "str", "default": "postgres"},
                "sslmode": {"type": "str", "choices": SSLMODES, "default": "prefer"},
                "sslrootcert": {"type": "path"},
            },
        }
    }
