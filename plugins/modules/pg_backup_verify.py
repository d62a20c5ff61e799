#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup_verify
short_description: Prove a backup of a PostgreSQL database, up to a real restore
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Climbs rungs and stops at the first that does not hold.
    V(bytes) reads each file and compares size and SHA-256 with the manifest.
    V(archive) inflates every data block to its end and compares the table of contents with the manifest's tables.
    V(restore) restores into a scratch database that is dropped afterwards, whatever happens.
    V(content) compares exact row counts, sequences, large objects, how many indexes, keys, views and functions there
    are, and fingerprints where they were taken.
    V(application) runs the owner's own query in the scratch database.
  - Only V(good) is a proof. V(corrupt) and V(incomplete) are about the backup, V(unverifiable) is about the place where
    it was to be proven (a server that cannot be reached, an extension that is missing, a full disk).
  - The verdict is appended to the backup's C(verdicts.jsonl). The module does not fail on a bad verdict; assert it.
  - With O(state=cleared) nothing is proven. What drills that ended left on that server is dropped, and the module fails
    where a scratch database of the backup stays, or nobody can know.
  - On a dedicated scratch server, roles that the backup names and the server lacks are created without the right to log
    in, and stay. On the database's own server nothing but the scratch database is created.
attributes:
  check_mode:
    support: full
    description: Chooses the backup and returns the plan; nothing is read, restored or written.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.postgresql
  - sre.runbooks.postgresql.client
  - sre.runbooks.store
  - sre.runbooks.progress
options:
  state:
    description: Prove the backup, or see that nothing of its drills stays on the server.
    type: str
    choices: [proven, cleared]
    default: proven
  backup_id:
    description: Which backup. Without it the newest, whatever is known of it. Required with O(state=cleared).
    type: str
  rung:
    description: How far to climb.
    type: str
    choices: [bytes, archive, restore, content, application]
    default: content
  own_server:
    description:
      - The server in O(login) is the database's own. A drill is then done only with room for twice the database in
        O(free_bytes) and with at most half of the connections at work.
    type: bool
    default: false
  free_bytes:
    description: Free space of that server's disk, which cannot be read over libpq.
    type: int
  jobs:
    description: Files that are read at once, workers of C(pg_restore), and connections that count.
    type: int
    default: 2
  application_check:
    description: The owner's own query. One row, a boolean and perhaps a text.
    type: str
  timeout_seconds:
    description: Seconds after which C(pg_restore) is ended.
    type: int
    default: 14400
"""

EXAMPLES = r"""
- name: Prove the newest backup of the orders
  sre.runbooks.pg_backup_verify:
    login:
      host: scratch.internal
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/scratch') }}"
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
    rung: application
    application_check: SELECT count(*) > 0, 'orders' FROM orders
  delegate_to: backup-store
  register: proof

- name: Only a proof passes
  ansible.builtin.assert:
    that: proof.verdict.verdict == 'good'
"""

RETURN = r"""
plan:
  description: The steps, each with C(step), C(target), C(before), C(after), C(reversible).
  returned: always
  type: list
  elements: dict
  sample: [{step: prove backup, target: orders-db 20261121T021500Z-3fa9, before: no rung, after: content,
            reversible: true}]
backup_id:
  description: The backup that was chosen.
  returned: always
  type: str
  sample: 20261121T021500Z-3fa9
message:
  description: The verdict in words, with the next step.
  returned: always
  type: str
  sample: The backup 20261121T021500Z-3fa9 of orders-db is good up to the rung content. A recovery takes 38.9 s.
verdict:
  description: The verdict as it stands in C(verdicts.jsonl).
  returned: with O(state=proven), when not in check mode
  type: dict
  sample:
    verdict: good
    rung: content
    proven_at: "2026-11-21T03:00:41.120Z"
    backup_id: 20261121T021500Z-3fa9
    rungs: [{name: bytes, passed: true, detail: "14 files, 402.1 MB", duration_s: 1.2}]
    fetch_s: 0.0
recovery_seconds:
  description:
    - What a recovery took, in seconds; fetching and decrypting the files of a store that is not read in place, the
      restore, and the proofs after it. Null when it did not come so far.
  returned: when not in check mode
  type: float
  sample: 38.9
left:
  description:
    - The scratch database that could not be dropped, with the reason; null where nothing stays. The next drill on that
      server drops it.
  returned: with O(state=proven), when not in check mode
  type: str
  sample: >-
    The scratch database sre_scratch_20261121t021500z_3fa9_0c1d2e3f on scratch.internal:5432 could not be dropped:
    server closed the connection unexpectedly.
taken_at:
  description: The moment that the backup shows. Null when its manifest cannot be read.
  returned: when not in check mode
  type: str
  sample: "2026-11-21T02:15:00.120Z"
newest_row_at:
  description: Time of the newest row in the backup. Null when it is not known.
  returned: when not in check mode
  type: str
  sample: "2026-11-21T02:14:59.880Z"
notes:
  description: What else an operator should know, such as roles that were created on the scratch server.
  returned: when not in check mode
  type: list
  elements: str
  sample: ["created roles without login on the scratch server: orders_owner"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import place_of, store_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, pick
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scratch import drop_all
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import GOOD, RUNGS, Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verify import Drill, Verification
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import duration

NEXT = {
    "corrupt": "Make a new backup now with the playbook sre.runbooks.database_backup, and look at the store's disk.",
    "incomplete": "Make a new backup now with the playbook sre.runbooks.database_backup, and find who removed files.",
    "unverifiable": "Mend what is named, then start this again; nothing is said about the backup itself.",
}


def choose(place: TargetStore, backup_id: str | None) -> Backup:
    """The backup to prove: a broken one too, since its verdict is what is asked for."""
    place.require()
    backups = place.backups()
    fitting = [backup for backup in backups if backup_id in (None, backup.backup_id)]
    return fitting[-1] if fitting else pick(backups, backup_id=backup_id, least_rung=None)


def drill_of(arguments: dict[str, Any]) -> Drill:
    """The module's arguments as a drill."""
    return Drill(
        rung=arguments["rung"], login=Login.from_arguments(arguments["login"]), own_server=arguments["own_server"],
        free_bytes=arguments["free_bytes"], jobs=max(1, arguments["jobs"]),
        application_check=arguments["application_check"], bin_directory=arguments["postgresql_bin_directory"],
        timeout_s=arguments["timeout_seconds"],
    )


def sentence_of(target: str, verdict: Verdict) -> str:
    """The verdict in words, with the next step."""
    if verdict.verdict == GOOD:
        return f"The backup {verdict.backup_id} of {target} is good up to the rung {verdict.rung}."
    return (
        f"The backup {verdict.backup_id} of {target} is {verdict.verdict} (highest rung passed:"
        f" {verdict.rung or 'none'}): {verdict.rungs[-1].detail.rstrip('.')}. {NEXT[verdict.verdict]}"
    )


def recovery_of(verdict: Verdict) -> str:
    """How long a recovery takes, in words; empty where that is not known, or nobody should recover from the backup."""
    if verdict.verdict != GOOD or verdict.recovery_s is None:
        return ""
    fetched = f", {duration(verdict.fetch_s)} of it to fetch the files" if verdict.fetch_s else ""
    return f" A recovery takes {duration(verdict.recovery_s)}{fetched}."


def left_of(verification: Verification, login: Login) -> str | None:
    """The scratch database that stays, in words; None where nothing does."""
    scratch = verification.scratch
    if not scratch.stays:
        return None
    return f"The scratch database {scratch.name} on {login.host}:{login.port} could not be dropped: {scratch.stays}."


def prove(place: TargetStore, arguments: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Choose a backup and prove it; what the module returns."""
    backup, rung, plan = choose(place, arguments["backup_id"]), arguments["rung"], Plan()
    plan.add("prove backup", f"{place.target} {backup.backup_id}", backup.proven_rung or "no rung", rung)
    result = {
        "changed": True, "plan": plan.as_list(), "diff": plan.diff(), "backup_id": backup.backup_id,
        "message": f"Checked only: would prove {plan.steps[0].target} up to {rung}.",
    }
    if check:
        return result
    drill = drill_of(arguments)
    verification = Verification(place, backup.backup_id, drill, Progress(arguments["progress_file"]))
    verdict, manifest = verification.run(), verification.manifest
    return {
        **result, "message": sentence_of(place.target, verdict) + recovery_of(verdict),
        "verdict": verdict.as_dict(), "notes": verification.notes, "recovery_seconds": verdict.recovery_s,
        "left": left_of(verification, drill.login),
        "taken_at": manifest.snapshot.taken_at if manifest else None,
        "newest_row_at": manifest.newest_row_at if manifest else None,
    }


def clear(arguments: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """See that nothing of a backup's drills stays on the server; what the module returns. The store is not asked."""
    login, backup_id, plan = Login.from_arguments(arguments["login"]), arguments["backup_id"], Plan()
    server = f"{login.host}:{login.port}"
    plan.add("drop scratch databases of drills that ended", server, "perhaps there", "absent", reversible=False)
    dropped = [] if check else drop_all(login, backup_id)
    ended = f"Checked only: would see that nothing of {backup_id} stays" if check else f"Nothing of {backup_id} stays"
    sentences = [*(f"{name}, which a drill left, is dropped." for name in dropped), f"{ended} on {server}."]
    return {
        "changed": check or bool(dropped), "plan": plan.as_list(), "diff": plan.diff(), "backup_id": backup_id,
        "message": " ".join(sentences),
    }


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **login_spec(),
            **store_spec(),
            "state": {"type": "str", "choices": ["proven", "cleared"], "default": "proven"},
            "backup_id": {"type": "str"},
            "rung": {"type": "str", "choices": list(RUNGS), "default": "content"},
            "own_server": {"type": "bool", "default": False},
            "free_bytes": {"type": "int"},
            "jobs": {"type": "int", "default": 2},
            "application_check": {"type": "str"},
            "postgresql_bin_directory": {"type": "path"},
            "timeout_seconds": {"type": "int", "default": 14400},
            "progress_file": {"type": "path"},
        },
        required_if=[("state", "cleared", ["backup_id"])],
        supports_check_mode=True,
    )
    arguments = module.params
    try:
        if arguments["state"] == "cleared":
            result = clear(arguments, check=module.check_mode)
        else:
            result = prove(place_of(arguments), arguments, check=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
