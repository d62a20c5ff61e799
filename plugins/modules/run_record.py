#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_record
short_description: Write down what happened in a run
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Appends one record for this host to the run of this play, on the controller, in about 0.02 s.
  - Reports are made from these records. Never put a secret into one.
options:
  kind:
    description:
      - What the record is about. C(docs/architecture.md) has the shape of each one's data.
      - V(failure) stands in a rescue and takes the failed task's name and message by itself.
      - V(outcome) takes as C(undo) the name of the playbook that goes back, and makes the whole command of it,
        with the variables in C(undo_with), which are no secrets.
    type: str
    required: true
    choices: [phase, step, checks, verdict, catalog, plan, measure, message, failure, outcome]
  data:
    description: The record's data.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Writes the record as well; records are no change of a target.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: full
"""

EXAMPLES = r"""
- name: Say that the preflight begins
  sre.runbooks.run_record:
    kind: phase
    data: {name: preflight, state: begin}

- name: Say how it ended
  sre.runbooks.run_record:
    kind: outcome
    data:
      outcome: done
      message: "Restored from 20261121T021500Z-3fa9; 4120 rows were lost."
      undo: sre.runbooks.database_restore_undo
"""

RETURN = r"""
record:
  description: The record as it was written.
  returned: success
  type: dict
  sample: {at: "2026-11-21T02:15:00.123Z", host: orders-db, kind: phase, data: {name: preflight, state: begin}}
"""
