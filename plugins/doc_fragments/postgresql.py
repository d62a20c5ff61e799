# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options shared by every module that talks to PostgreSQL."""

from __future__ import annotations


class ModuleDocFragment:
    """The C(login) option; as C(postgresql.client) also where the client programs are."""

    DOCUMENTATION = r"""
options:
  login:
    description: Where PostgreSQL is and as whom to connect. The password reaches child processes by environment only.
    type: dict
    required: true
    suboptions:
      host:
        description: Host name or address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 5432
      user:
        description: Role to connect as.
        type: str
        required: true
      password:
        description: The role's password. From a lookup, never a literal.
        type: str
      database:
        description: Database for server-wide statements.
        type: str
        default: postgres
      sslmode:
        description: As libpq understands it.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: prefer
      sslrootcert:
        description: File with the trusted certificates, for C(verify-ca) and C(verify-full).
        type: path
requirements:
  - psycopg >= 3.2
"""

    CLIENT = r"""
options:
  postgresql_bin_directory:
    description: Folder with the client programs of the server's own major version; without it the usual places.
    type: path
"""
