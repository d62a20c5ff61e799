#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_pitr_info
short_description: Tell to which points in time a PostgreSQL cluster can be recovered
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Reads pgBackRest's base backups and the archive's own listing, follows the WAL from each backup along the live
    cluster's timeline, and says where it ends and which segments are missing.
  - Says what would keep a recovery from being done, and what one must know before.
  - Changes nothing. Runs on the database's server, as the server's user or root.
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: full
    description: Changes nothing.
extends_documentation_fragment:
  - sre.runbooks.postgresql
  - sre.runbooks.pitr
"""

EXAMPLES = r"""
- name: See how far back the cluster can be recovered
  sre.runbooks.pg_pitr_info:
    login:
      host: 127.0.0.1
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    data_directory: /var/lib/postgresql/15/main
    config: /etc/pgbackrest.conf
    stanza: main
  become: true
  become_user: postgres
"""

RETURN = r"""
window:
  description:
    - The time from which on something can be recovered, and the time when the newest WAL came into the archive.
    - A running server that archives adds to it.
  returned: success
  type: dict
  sample: {from: "2026-11-15T02:16:01.000Z", until: "2026-11-21T14:30:12.000Z", archives: true, free_bytes: 80100000000}
backups:
  description: Each base backup of this cluster, oldest first, how far it leads, and the WAL that is missing after it.
  returned: success
  type: list
  elements: dict
  sample: [{backup: 20261115-021500F, kind: full, ended_at: "2026-11-15T02:16:00.000Z", bytes: 500000000, timeline: 1,
            flawed: false, problem: "", gaps: [], newest_wal: "000000010000000000000042",
            newest_wal_at: "2026-11-21T14:30:12.000Z"}]
timeline:
  description: The live cluster's timeline.
  returned: success
  type: int
  sample: 1
position:
  description: Where a recovery of this cluster stands, and the folders that earlier ones have put aside.
  returned: success
  type: dict
  sample: {state: untouched, run: "", backup: "", target: null, timeline: 0, system_identifier: "", port: 0, kept: "",
           until: "", abandoned: "", new_backup: "", application_check: "", drill: false, kept_folders: []}
sessions:
  description: Sessions of clients now; null when the server does not run.
  returned: success
  type: int
  sample: 41
problems:
  description: Sentences for each of which a recovery is refused.
  returned: success
  type: list
  elements: str
  sample: []
notes:
  description: Sentences worth knowing that stop nothing.
  returned: success
  type: list
  elements: str
  sample: ["Replication slots do not come back: analytics. Make them anew."]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.arguments import cluster_spec, request_of
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.recovery import Recovery
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def main() -> None:
    """The module."""
    module = AnsibleModule(argument_spec=cluster_spec(), supports_check_mode=True)
    try:
        found = Recovery(request_of(module.params), Progress(), check=True).survey()
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}. Run this as the server's user or root.")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
