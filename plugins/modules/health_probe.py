#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: health_probe
short_description: Measure the health of many targets in one call
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Probes services, databases, caches and endpoints at once, each check with its own time-out, the whole with a
    deadline.
  - Every observation becomes a check whose status is V(ok), V(warning), V(unknown) or V(critical), in that order of
    badness. Only a proof is V(ok). What did not answer in time, could not be read or could not be parsed is V(unknown).
  - It reads only. It never reports a change, and check mode probes as well.
attributes:
  check_mode:
    support: full
    description: Probes as always; the samples file is read and not written.
  diff_mode:
    support: full
    description: Nothing is changed, so there is nothing to show.
extends_documentation_fragment:
  - sre.runbooks.progress
options:
  targets:
    description:
      - What is probed, usually one entry for each inventory host.
      - Give either this or O(hosts).
    type: list
    elements: dict
    suboptions:
      name:
        description: The target's name, usually the inventory host.
        type: str
        required: true
      error:
        description: Why nobody knows the checks of this target; O(targets[].checks) is empty then.
        type: str
      checks:
        description: The checks of this target; an inventory keeps them in C(health_checks).
        type: list
        elements: dict
        required: true
        suboptions:
          kind:
            description: What is asked. The options below say to which kinds they belong.
            type: str
            choices: [http, tcp, tls, postgresql, redis]
            required: true
          name:
            description:
              - What the check is called; unique within its target. Without it the O(targets[].checks[].kind).
              - What is observed beside the first answer is called C(name.measure), as C(monitor.size_bytes).
            type: str
          timeout_seconds:
            description: Seconds that this check may take, in place of O(timeout_seconds).
            type: float
          thresholds:
            description:
              - Where a measured value turns to warning or critical, in place of the collection's own thresholds.
              - A value equal to the threshold still passes.
            type: list
            elements: dict
            default: []
            suboptions:
              measure:
                description:
                  - For V(http) V(response_seconds), or any field of the JSON body as a JMESPath expression, or with
                    the shape V(metrics) the name of a metric, whose series are added up.
                  - For V(tls) V(certificate_days).
                  - For V(postgresql) and V(redis) one of O(targets[].checks[].measures).
                type: str
                required: true
              warning:
                description: Beyond this the check is V(warning). Without it there is no warning.
                type: float
              critical:
                description: Beyond this the check is V(critical). Without it there is no critical.
                type: float
              worse:
                description:
                  - On which side of the threshold the trouble is.
                  - Without it the measure's own side, and V(above) for a field of a body or a metric.
                type: str
                choices: [above, below]
              unit:
                description: What a field of a body counts, for the messages.
                type: str
              per_seconds:
                description:
                  - For metrics, look at how much a counter grew between two samples, scaled to this window in seconds.
                  - A kept sample that is older than twice the window is not used.
                type: float
              of:
                description: For metrics, another counter; the value is then the growth in percent of this one's.
                type: str
              quantile:
                description: For metrics, which quantile of what a histogram saw between two samples, such as 0.95.
                type: float
          url:
            description: For V(http), the address that is asked.
            type: str
          token:
            description: For V(http), sent as bearer token. From a lookup, never a literal.
            type: str
          expected_status:
            description: For V(http), the HTTP status codes that are right.
            type: list
            elements: int
            default: [200]
          shape:
            description:
              - For V(http), how the body is read.
              - V(auto) takes the first shape whose keys the body has; a body of no known shape is V(unknown).
              - V(services) has C(status), C(timestamp), and C(services) with a word for each name.
              - V(checks) has C(status), C(timestamp), and C(checks) with a word, or an object with C(status), for each.
              - V(actuator) is Spring's, with C(status), and C(components) with an object with C(status) for each.
              - V(plain) has C(status), with C(timestamp) and C(version) where they are given.
              - V(text) is one word such as C(OK), not JSON.
              - V(json) is any JSON, looked at by O(targets[].checks[].thresholds) only.
              - V(metrics) is Prometheus' text format, looked at by O(targets[].checks[].metrics) and
                O(targets[].checks[].thresholds).
              - V(any) is not read; the HTTP status alone counts.
            type: str
            choices: [auto, services, checks, actuator, plain, text, json, metrics, any]
            default: auto
          services:
            description: For V(http), services that the body must name; each that it names must be up in any case.
            type: list
            elements: str
            default: []
          metrics:
            description: For V(http) with the shape V(metrics), what must be there; otherwise it is V(unknown).
            type: list
            elements: str
            default: []
          version:
            description: For V(http), the version that should answer; another one is a V(warning).
            type: str
          timestamp_required:
            description: For V(http), a body without C(timestamp) is V(unknown).
            type: bool
            default: false
          timestamp_maximum_age_seconds:
            description: For V(http), how old, or far ahead, C(timestamp) may be; one without time zone is UTC.
            type: float
            default: 300
          host:
            description: For V(tcp), V(tls) and V(redis), the host name or address.
            type: str
          port:
            description: For V(tcp), V(tls) and V(redis), the TCP port.
            type: int
          server_name:
            description:
              - For V(tls), and for V(redis) with O(targets[].checks[].tls), the name that the certificate must carry.
                Without it O(targets[].checks[].host).
            type: str
          ca_file:
            description:
              - For V(http), V(tls) and V(redis), a file with the trusted certificates. Without it the system's own.
            type: path
          password:
            description: For V(redis), the password. From a lookup, never a literal.
            type: str
          user:
            description: For V(redis), the ACL user, where it is not the default one.
            type: str
          tls:
            description: For V(redis), speak TLS.
            type: bool
            default: false
          login:
            description:
              - For V(postgresql), where to connect and as whom.
              - Give the application's own login in a check without measures, the monitor's in one with them.
            type: dict
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
                description: Database to connect to. Measures of one database are taken in this one.
                type: str
                default: postgres
              sslmode:
                description: As libpq understands it.
                type: str
                choices: [disable, allow, prefer, require, verify-ca, verify-full]
                default: prefer
              sslrootcert:
                description: File with the trusted certificates, for V(verify-ca) and V(verify-full).
                type: path
          query:
            description:
              - For V(postgresql), the owner's own check. One row; the first column is a boolean, the second, which may
                be missing, a text for the message. Runs in a read-only transaction.
            type: str
          measures:
            description:
              - For V(postgresql) V(connections_percent), V(longest_transaction_seconds),
                V(idle_in_transaction_seconds), V(blocked_sessions), V(cache_hit_percent), V(replication_lag_seconds),
                V(wraparound_percent), V(invalid_indexes), V(dead_tuples_percent), V(size_bytes), V(slow_statements).
              - For V(redis) V(hit_percent), V(memory_percent), V(evictions_per_second), V(persistence_errors).
              - V(all) takes all of the kind; what does not apply to the server is then a line in RV(not_measured), or
                V(unknown) where its name stands beside V(all). So name V(replication_lag_seconds) where standbys are.
            type: list
            elements: str
            default: []
          slow_statement_seconds:
            description: For V(postgresql), from which average on V(slow_statements) counts a statement.
            type: float
            default: 1
  hosts:
    description:
      - Inventory hosts in place of O(targets); the checks of each are its variable C(health_checks).
      - They are worked out for each host on its own. A host for which that fails, as with a missing file of a secret,
        is V(unknown), and the others are measured.
    type: list
    elements: str
  timeout_seconds:
    description: Seconds that one check may take.
    type: float
    default: 5
  deadline_seconds:
    description: Seconds that the whole call may take, whatever the targets do; what is not done by then is V(unknown).
    type: float
    default: 60
  concurrency:
    description: How many checks run at the same time.
    type: int
    default: 32
  body_limit_bytes:
    description: The longest body that is read; a longer one is V(unknown).
    type: int
    default: 1048576
  samples_file:
    description:
      - Where the last sample of each target's counters is kept. Rates and ratios need two samples at least 10 seconds
        apart; until there are two they are lines in RV(not_measured).
      - Without it nothing lasts between two calls, and O(wait_for_second_sample) is then the default.
    type: path
  wait_for_second_sample:
    description:
      - Take a second sample in this call, 10 seconds after the first, where no usable one is kept.
      - Without it V(false) when O(samples_file) is given and lasts, otherwise V(true). It does not last where the
        module runs in a container and C(XDG_STATE_HOME) names no place that was chosen.
    type: bool
  samples:
    description:
      - How often a check with a value beyond a threshold is asked at most (M of "N of M"). One below N says so in its
        message and does not count.
      - What is down, refused or silent counts at once, and rates too, since they are about a window already.
    type: int
    default: 3
  samples_needed:
    description: In how many of O(samples) a status must be that bad, or worse, before it counts (N of "N of M").
    type: int
    default: 2
  samples_interval_seconds:
    description: Seconds between two of O(samples).
    type: float
    default: 0.5
  show:
    description: Print a table on the controller, the problems first; in colours where the output is a terminal.
    type: bool
    default: false
requirements:
  - psycopg >= 3.2 for checks of kind postgresql
  - jmespath >= 1.0 for thresholds on fields of a body
"""

EXAMPLES = r"""
- name: Measure one service and its database
  sre.runbooks.health_probe:
    targets:
      - name: orders-service
        checks:
          - kind: http
            url: http://127.0.0.1:8104/health
            version: 2.4.1
            thresholds:
              - {measure: response_seconds, warning: 2, critical: 3}
              - {measure: pool.in_use_percent, warning: 80, critical: 95, unit: percent}
      - name: orders-db
        checks:
          - kind: postgresql
            name: application
            login:
              host: 127.0.0.1
              port: 5444
              user: orders_user
              password: "{{ lookup('ansible.builtin.file', secrets_directory ~ '/orders_user') }}"
              database: orders_db
            query: select count(*) > 0, count(*) || ' orders today' from orders where created_at > current_date
          - kind: postgresql
            name: monitor
            login:
              host: 127.0.0.1
              port: 5444
              user: monitor
              password: "{{ lookup('ansible.builtin.file', secrets_directory ~ '/monitor') }}"
              database: orders_db
            measures: [all]
            thresholds:
              - {measure: connections_percent, warning: 70, critical: 90}
    samples_file: "{{ lookup('ansible.builtin.env', 'HOME') }}/.local/state/sre.runbooks/samples.json"
"""

RETURN = r"""
status:
  description: The worst status of all checks; V(unknown) when there is no check at all.
  returned: success
  type: str
  sample: warning
checks:
  description: Every observation.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: What was observed., type: str}
    target: {description: Of whom., type: str}
    kind: {description: How., type: str}
    status: {description: V(ok) or V(warning) or V(unknown) or V(critical)., type: str}
    value: {description: The value; none when nothing could be read., type: raw}
    unit: {description: What the value counts., type: str}
    warning: {description: The threshold., type: float}
    critical: {description: The threshold., type: float}
    message: {description: One sentence with the values., type: str}
    checked_at: {description: ISO 8601 in UTC., type: str}
    duration_ms: {description: How long the answer took., type: float}
    evidence: {description: What else was seen., type: dict}
  sample:
    - name: monitor.connections_percent
      target: orders-db
      kind: postgresql
      status: warning
      value: 84.5
      unit: percent
      warning: 80.0
      critical: 90.0
      message: "82 of 97 connections are in use; orders-service has 75 of them, 61 idle."
      checked_at: "2026-11-21T02:15:00.123Z"
      duration_ms: 12.4
      evidence: {by_state: {idle: 70, active: 12}, by_application: {orders-service: 75, "": 7}}
not_measured:
  description: What needs a second sample first, or does not apply, as sentences.
  returned: success
  type: list
  elements: str
  sample:
    - "orders-db monitor.cache_hit_percent: not measured yet, it needs a second sample at least 10 s after the first."
summary:
  description: One line on the whole, and one for each check that is not ok, the worst first.
  returned: success
  type: list
  elements: str
  sample:
    - "1 check of 1 target: 1 warning."
    - >-
      warning   orders-db monitor.connections_percent: 84.5 %, more than 80.0 %. 82 of 97 connections are in
      use; orders-service has 75 of them, 61 idle.
    - >-
      orders-db monitor.cache_hit_percent: not measured yet, it needs a second sample at least 10 s after the
      first.
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.health.arguments import argument_spec
from ansible_collections.sre.runbooks.plugins.module_utils.health.kinds import PROBES
from ansible_collections.sre.runbooks.plugins.module_utils.health.samples import SampleFile
from ansible_collections.sre.runbooks.plugins.module_utils.health.summary import summary
from ansible_collections.sre.runbooks.plugins.module_utils.health.sweep import Limits, Sweep, requests_from, unchecked
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import status_of
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.folder import throwaway_place
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

LIMITS = (
    "timeout_seconds", "deadline_seconds", "concurrency", "body_limit_bytes", "samples", "samples_needed",
    "samples_interval_seconds",
)


def main() -> None:
    # The action plugin has made targets of hosts.
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True,
                           mutually_exclusive=[("targets", "hosts")], required_one_of=[("targets", "hosts")])
    options = module.params
    wait = options["wait_for_second_sample"]
    nothing_lasts = not options["samples_file"] or bool(throwaway_place(os.environ))
    limits = Limits(
        **{name: options[name] for name in LIMITS},
        wait_for_second_sample=nothing_lasts if wait is None else wait,
    )
    try:
        sweep = Sweep(PROBES, limits, Progress(options["progress_file"]))
        outcome = sweep.measure(
            requests_from(options["targets"], limits), SampleFile(options["samples_file"]), keep=not module.check_mode
        )
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    checks = [check.as_dict() for check in unchecked(options["targets"]) + outcome.checks]
    module.exit_json(
        changed=False, status=status_of(checks), checks=checks, not_measured=outcome.not_measured,
        summary=summary(checks, outcome.not_measured),
    )


if __name__ == "__main__":
    main()
