#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_pitr
short_description: Bring a PostgreSQL cluster back to a point in time, beside the live one, and exchange the two
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Restores a base backup of pgBackRest beside the live data directory, replays the archived WAL up to the target,
    opens it read-only on a socket of its own, and exchanges the two data directories. The old one is kept.
  - Where the recovery stands is in a file beside the data directories, so a call that was killed anywhere is continued
    by the next one. Meanwhile a lock there keeps every other call out.
  - O(state=restored) changes nothing that anybody notices. The restored cluster archives nothing, listens on no
    network, follows no publisher and runs no scheduled jobs.
  - Between O(state=restored) and O(state=exchanged) the caller stops what writes. When O(state=exchanged) fails before
    the restored cluster accepted writes, the old one is live again.
  - Runs on the database's server, as the server's user or root.
attributes:
  check_mode:
    support: full
    description: Looks at everything, refuses as it would, returns plan and losses, takes no lock and changes nothing.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.postgresql
  - sre.runbooks.pitr
  - sre.runbooks.progress
options:
  state:
    description:
      - V(restored), a recovered cluster stands beside the live one, read-only at the target.
      - V(exchanged), it is live on a new timeline, and archives. The configuration is the live one's.
      - V(done), the new timeline has a base backup, which C(pgbackrest verify) has read; its output is read, since its
        exit code is 0 whatever it finds.
      - V(undone), the old cluster is live. Where the restored one accepts writes, only with O(losses_agreed); without
        it, what another O(run) made live stays as it is. Where the old cluster does not start, the restored one is
        live again.
    type: str
    choices: [restored, exchanged, done, undone]
    required: true
  run:
    description: The run's id, for the position. Who goes back by itself takes back only what is its own.
    type: str
    required: true
  target:
    description:
      - Where recovery ends. A time is ISO 8601 with a zone. Needed for O(state=restored).
      - What was written after it is lost.
    type: str
  target_kind:
    description: What O(target) is. All but V(time) need O(backup).
    type: str
    choices: [time, lsn, name, transaction]
    default: time
  exclusive:
    description: End just before the target.
    type: bool
    default: false
  backup:
    description: The base backup to begin with, by pgBackRest's label. Without it the newest that ended before the time.
    type: str
  control:
    description: Commands that start and stop the live server, each returning when that is done.
    type: dict
    suboptions:
      start:
        description: Program and arguments.
        type: list
        elements: str
        required: true
      stop:
        description: Program and arguments.
        type: list
        elements: str
        required: true
  port:
    description: Port of the restored cluster's socket, while it stands beside.
    type: int
    default: 5433
  database:
    description: The database that O(application_check) is asked in.
    type: str
    default: postgres
  application_check:
    description:
      - The owner's own query, one row, first a boolean, then (optional) a text. Asked beside, at the target.
      - Where a transaction that had not ended at the target locks what it reads, it is asked with O(state=done), and a
        drill fails.
    type: str
  processes:
    description: How many processes pgBackRest copies with.
    type: int
    default: 2
  losses_agreed:
    description: For O(state=undone), somebody has agreed to lose what was written since the exchange.
    type: bool
    default: false
  drill:
    description:
      - The copy is a drill's. With O(state=restored) a recovery that was begun is left alone, and nobody exchanges what
        is restored; with O(state=undone) only a drill's copy is removed, also one that a killed drill left.
    type: bool
    default: false
  retained_seconds:
    description: How long the old cluster is to be kept. Nothing removes it by itself.
    type: int
    default: 259200
  archive_timeout_seconds:
    description: How long the live server's newest WAL may take to come into the archive.
    type: int
    default: 120
  replay_timeout_seconds:
    description: How long the replay may take.
    type: int
    default: 86400
  stop_timeout_seconds:
    description: How long a server may take to stop.
    type: int
    default: 120
  start_timeout_seconds:
    description: How long a server may take to start and to leave recovery.
    type: int
    default: 300
  timeout_seconds:
    description: Seconds after which a restore, a backup or a verification by pgBackRest is ended.
    type: int
    default: 86400
  lock_wait_seconds:
    description: How long to wait for another call that still works on this cluster.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Recover the cluster beside the live one, to the minute before the accident
  sre.runbooks.pg_pitr:
    login:
      host: 127.0.0.1
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    data_directory: /var/lib/postgresql/15/main
    config: /etc/pgbackrest.conf
    stanza: main
    run: "{{ run_id }}"
    target: "2026-11-21T14:30:00+01:00"
    state: restored

- name: Exchange the two
  sre.runbooks.pg_pitr:
    login:
      host: 127.0.0.1
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    data_directory: /var/lib/postgresql/15/main
    config: /etc/pgbackrest.conf
    stanza: main
    run: "{{ run_id }}"
    control:
      start: [systemctl, start, postgresql@15-main]
      stop: [systemctl, stop, postgresql@15-main]
    state: exchanged
"""

RETURN = r"""
plan:
  description:
    - The steps, each with C(step), C(target), C(before), C(after), C(reversible).
    - Outside check mode also C(at), when they were carried out.
  returned: success
  type: list
  elements: dict
  sample: [{step: put the live data directory aside, target: /var/lib/postgresql/15/main, before: live,
            after: /var/lib/postgresql/15/main.retired-20261121T143000Z, reversible: true}]
position:
  description: Where the recovery stands now (in check mode, where it stood), and the folders that were put aside.
  returned: success
  type: dict
  sample: {state: restored, run: r1, backup: 20261115-021500F,
           target: {kind: time, value: "2026-11-21 13:30:00.000000+00", exclusive: false},
           timeline: 1, system_identifier: "7710697988691996410", port: 5433, kept: "", until: "",
           abandoned: "", new_backup: "", application_check: passed, drill: false, kept_folders: []}
target:
  description: Where recovery ends.
  returned: when O(state=restored)
  type: dict
  sample: {kind: time, value: "2026-11-21 13:30:00.000000+00", exclusive: false}
backup:
  description: The base backup that was chosen.
  returned: when O(state=restored)
  type: dict
  sample: {backup: 20261115-021500F, kind: full, ended_at: "2026-11-15T02:16:00.000Z", bytes: 500000000, timeline: 1,
           flawed: false}
losses:
  description: What a recovery gives and takes, as a sentence.
  returned: when O(state=restored), or O(state=exchanged) and the live server was not down before
  type: str
  sample: you will get data up to 2026-11-21T13:30:00.000Z, losing 12 minutes of writes
lost_seconds:
  description:
    - From the target to the live cluster's newest writes; null where that is not known.
    - With O(state=restored) until now, with O(state=exchanged) until the live server was stopped for it.
  returned: when O(state=restored), or O(state=exchanged) and the live server was not down before
  type: float
  sample: 720.5
reached:
  description: Where the restored cluster stands, and where an operator finds it.
  returned: when O(state=restored) was carried out
  type: dict
  sample: {lsn: 0/5000148, last_commit_at: "2026-11-21T13:29:59.120Z", port: 5433,
           stopped: "before commit of transaction 745, time 2026-11-21 13:31:07.12345+00",
           socket: /var/lib/postgresql/15/main.pitr/socket}
databases:
  description: The databases of the restored cluster, each of which was entered.
  returned: when O(state=restored) was carried out
  type: list
  elements: dict
  sample: [{name: orders, bytes: 500000000, tables: 12}]
application_check:
  description:
    - V(passed), the owner's own check passed. V(not asked), a transaction that had not ended at the target locks what
      it reads until the exchange. V(none), there is none.
    - With O(state=done) it was asked.
  returned: when O(state=restored) or O(state=done) was carried out
  type: str
  sample: passed
needed_bytes:
  description: Disk that the restored cluster takes.
  returned: when O(state=restored)
  type: int
  sample: 550000000
free_bytes:
  description: Free disk beside the data directory.
  returned: when O(state=restored)
  type: int
  sample: 80100000000
sessions:
  description: Sessions of clients; null when the server does not run.
  returned: when O(state=restored)
  type: int
  sample: 41
notes:
  description: Sentences worth knowing that stop nothing.
  returned: success
  type: list
  elements: str
  sample: ["Replication slots do not come back: analytics. Make them anew."]
exchange_seconds:
  description: Seconds in which nobody could write.
  returned: when the data directories were exchanged
  type: float
  sample: 2.314
retired:
  description: Folder of the old cluster.
  returned: when the data directories were exchanged
  type: str
  sample: /var/lib/postgresql/15/main.retired-20261121T143000Z
until:
  description: Until when it is to be kept.
  returned: when the data directories were exchanged
  type: str
  sample: "2026-11-24T14:30:00Z"
abandoned:
  description: Folder of the restored cluster that was put aside again.
  returned: when O(state=undone) exchanged the data directories
  type: str
  sample: /var/lib/postgresql/15/main.abandoned-20261121T150000Z
timeline:
  description: The live cluster's timeline.
  returned: when the data directories were exchanged, or O(state=done)
  type: int
  sample: 2
new_backup:
  description: The base backup of the new timeline.
  returned: when O(state=done) was carried out
  type: dict
  sample: {backup: 20261121-143010F, kind: full, ended_at: "2026-11-21T14:31:00.000Z", bytes: 500000000, timeline: 2,
           flawed: false}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.arguments import cluster_spec, request_of
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.recovery import STATES, Recovery
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import KINDS
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

COMMAND = {"type": "list", "elements": "str", "required": True}


def options_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The request's values from the module's arguments."""
    control = arguments["control"] or {}
    same = ("run", "target_kind", "exclusive", "port", "database", "application_check", "processes", "losses_agreed",
            "drill")
    seconds = {
        f"{name}_s": arguments[f"{name}_seconds"]
        for name in ("retained", "archive_timeout", "replay_timeout", "stop_timeout", "start_timeout", "timeout",
                     "lock_wait")
    }
    return {
        **{name: arguments[name] for name in same}, **seconds, "target": arguments["target"] or None,
        "backup": arguments["backup"] or None, "start": tuple(control.get("start") or ()),
        "stop": tuple(control.get("stop") or ()),
    }


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **cluster_spec(),
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "run": {"type": "str", "required": True},
            "target": {"type": "str"},
            "target_kind": {"type": "str", "choices": list(KINDS), "default": "time"},
            "exclusive": {"type": "bool", "default": False},
            "backup": {"type": "str"},
            "control": {"type": "dict", "options": {"start": COMMAND, "stop": COMMAND}},
            "port": {"type": "int", "default": 5433},
            "database": {"type": "str", "default": "postgres"},
            "application_check": {"type": "str"},
            "processes": {"type": "int", "default": 2},
            "losses_agreed": {"type": "bool", "default": False},
            "drill": {"type": "bool", "default": False},
            "retained_seconds": {"type": "int", "default": 259200},
            "archive_timeout_seconds": {"type": "int", "default": 120},
            "replay_timeout_seconds": {"type": "int", "default": 86400},
            "stop_timeout_seconds": {"type": "int", "default": 120},
            "start_timeout_seconds": {"type": "int", "default": 300},
            "timeout_seconds": {"type": "int", "default": 86400},
            "lock_wait_seconds": {"type": "int", "default": 600},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    request = request_of(module.params, **options_of(module.params))
    try:
        recovery = Recovery(request, Progress(module.params["progress_file"]), check=module.check_mode)
        result = recovery.reach(module.params["state"])
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or module.params['data_directory']}: {error.strerror or error}. Mend that, then run "
                "the same command again: it goes on from there."
        )
    plan = result.plan.as_list("" if module.check_mode else now())
    module.exit_json(changed=bool(plan), diff=result.plan.diff(), **{**result.values, "plan": plan})


if __name__ == "__main__":
    main()
