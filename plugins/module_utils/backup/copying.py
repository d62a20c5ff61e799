# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup restored beside everything else: under another name or on another server, whole or some of its tables.

The live database is never touched. The copy has its name only when it is whole and proven; until then it is called as
a swap calls one that is being filled, and the next call drops what a killed one left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup import (
    cluster_roles,
    content,
    load,
    parts,
    preflight,
    replay,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, pick
from ansible_collections.sre.runbooks.plugins.module_utils.backup.filling import Filling
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.request import RestoreRequest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.rights import (
    Rights,
    in_schemas_of_others,
    missing_rights,
    only_superusers_create,
    owners,
    read_rights,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import DATA, GLOBALS
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import (
    DATABASES,
    LOCK_KEY,
    RESTORING_SUFFIX,
    Database,
    Position,
    Swap,
    copy_name,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker as markers
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    first_line,
    identifier,
    server_errors,
    shorten,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import errors, sql

MEMBERSHIPS = """
SELECT pg_get_userbyid(roleid) AS role, pg_get_userbyid(member) AS member FROM pg_auth_members
"""
SHUT = "SELECT rolname AS name FROM pg_roles WHERE NOT rolcanlogin"
# The role that is asked for may be one that the server lacks.
MAY_CREATE = """
SELECT o.rolname AS owner, s.rolname AS schema_owner FROM unnest(%s::text[], %s::text[]) AS pair(owner, schema_owner)
JOIN pg_roles AS o ON o.rolname = pair.owner JOIN pg_roles AS s ON s.rolname = pair.schema_owner
WHERE pg_has_role(o.oid, s.oid, 'USAGE')
"""
DEFAULT_TABLESPACE = "pg_default"
UNREAD = (
    "The roles that belong to those of the database, and who owns what, stand in the backup itself, which only the"
    " restore brings here: more may be found then, before anything is made."
)


@dataclass(frozen=True)
class Request(RestoreRequest):
    """What is copied, and where to; see the module's documentation for each."""

    live: Login | None = None
    name: str | None = None
    tables: tuple[str, ...] = ()
    schema: str | None = None
    roles_login: bool = False

    @property
    def whole(self) -> bool:
        """Whether all of the backup is restored."""
        return not (self.tables or self.schema)


@dataclass
class Found:
    """What was found before anything is changed.

    Args:
        server: what the server says of itself.
        rights: what whoever restores may do there.
        properties: those that the copy gets.
        leftovers: databases that killed calls left.
        at_home: whether it is the server that the backup is of.
        inside: what the backup's files say; None where they are not here yet.
    """

    server: preflight.Server
    rights: Rights
    properties: Properties
    leftovers: tuple[str, ...]
    at_home: bool
    inside: Inside | None = None


@dataclass
class Inside:
    """What only the backup's own files say.

    Args:
        missing: roles that the server lacks.
        problems: what stops the restore.
        notes: what is worth knowing.
    """

    missing: cluster_roles.Missing = field(default_factory=cluster_roles.Missing)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def kept_name(database: str, backup: str) -> str:
    """The name of a copy that has no name of its own."""
    return shorten(database, f"__copy_{backup}")


class Copy:
    """One copy of one backup.

    Args:
        request: what, and where to.
        progress: where to report.
        check: change nothing, and take no lock.
    """

    def __init__(self, request: Request, progress: Progress, *, check: bool) -> None:
        self.request, self.progress, self.check = request, progress, check
        self.plan = Plan()
        self.values: dict[str, Any] = {"roles_created": [], "to_do": [], "lines": []}
        self.left: list[str] = []
        self.backup: Backup = pick(
            request.place.backups(), backup_id=request.backup_id, before=request.before, least_rung=request.least_rung
        )
        self.manifest = request.place.manifest(self.backup.backup_id)
        self.wanted = parts.choose(self.manifest, request.tables, request.schema)
        self.name = request.name or kept_name(request.database, self.backup.backup_id)
        self.swap = Swap(request.login, self.name, request.run, progress, drop_timeout_s=request.drop_timeout_s)

    @property
    def _major(self) -> int:
        return self.swap.connection.info.server_version // 10000

    def make(self) -> dict[str, Any]:
        """Look at everything, then make the copy and prove it; in check mode only look.

        Returns:
            The module's result, without the plan.

        Raises:
            RunbookError: it cannot be made; `left` in its context names what could not be taken away again.
        """
        try:
            self._reach()
        except RunbookError as error:
            error.context["left"] = self.left
            raise
        return self.values

    def _reach(self) -> None:
        hint = "Mend that, then run the same command again."
        with server_errors(self.request.login, hint), contextlib.closing(self.swap.connection):
            if self.check:
                found = self._look()
                inside = found.inside or Inside(missing=self._missing_by_manifest())
                self._plan(found.leftovers, inside.missing)
                self.values["notes"] += inside.notes if found.inside else [UNREAD]
            else:
                with self.swap.alone(self.request.lock_wait_s):
                    self._make(self._look())

    def _make(self, found: Found) -> None:
        filling = self._filling(found)
        with filling.plain() as folder:
            inside = found.inside or self._look_inside(found, filling, folder)
            self._require(inside.problems)
            self._plan(found.leftovers, inside.missing)
            for name in found.leftovers:
                self.swap.drop(name)
            with self._roles(inside.missing):
                # Outside: when there is a database of that name, it is none of this call's.
                self._create(found.properties)
                try:
                    self._fill(found, filling, folder)
                except BaseException:
                    self._drop_unfinished()
                    raise
        self.values["notes"] += inside.notes
        self.values["roles_created"] = [role.name for role in inside.missing.roles]
        self.values["to_do"] = cluster_roles.to_do(inside.missing, self._major, login=self.request.roles_login)

    # looking

    def _look(self) -> Found:
        """Find out what the copy takes, and refuse at once all that stands in its way."""
        request, manifest, connection = self.request, self.manifest, self.swap.connection
        position = self.swap.position()
        if position.live:
            raise RunbookError(
                f"There is a database {self.name!r} on {request.login.host}:{request.login.port} already, and a copy"
                " never takes the place of one.",
                "Give the copy a name of its own (-e to_name=<name>), or drop that one when nobody needs it any more:"
                f" DROP DATABASE {identifier(self.name).as_string()};",
            )
        server, rights = preflight.read_server(connection, self.name), read_rights(connection)
        # A tablespace is a place on one server's disks.
        at_home = server.system_identifier == manifest.system_identifier
        properties = manifest.database if at_home else replace(manifest.database, tablespace=DEFAULT_TABLESPACE)
        found = Found(server, rights, properties, self._leftovers(position), at_home)
        free = preflight.free_bytes(connection, properties.tablespace)
        findings = preflight.judge(
            server, manifest, properties, self.name, request.login.user, None,
            request.free_bytes if free is None else free,
            share=parts.share(manifest, self.wanted), exchanges=False, creates_roles=rights.superuser,
        )
        problems = list(findings.problems)
        try:
            find_client_tools(server.major, request.bin_directory)
        except RunbookError as error:
            self._require([*problems, str(error)])
        if request.place.is_in_place and not manifest.encryption:
            filling = self._filling(found)
            with filling.plain() as folder:
                found.inside = self._look_inside(found, filling, folder)
            problems += found.inside.problems
        else:
            problems += missing_rights(rights, properties, ())
        self._require(problems)
        self.values |= {
            "name": self.name, "place": f"{request.login.host}:{request.login.port}",
            "backup": {
                "backup_id": manifest.backup_id, "taken_at": manifest.snapshot.taken_at,
                "proven_rung": self.backup.proven_rung, "newest_row_at": manifest.newest_row_at,
                "size_bytes": manifest.database.size_bytes,
            },
            "notes": list(findings.notes), "needed_bytes": findings.needed_bytes, "free_bytes": findings.free_bytes,
            "until": "" if request.name else utc_text(
                datetime.now(UTC) + timedelta(seconds=request.retained_s), "seconds"
            ),
        }
        return found

    def _look_inside(self, found: Found, filling: Filling, folder: Path) -> Inside:
        """What the table of contents and globals.sql say of owners, rights and roles."""
        filling.prove_bytes(folder, [GLOBALS])
        tools = find_client_tools(found.server.major, self.request.bin_directory)
        listing = parts.contents(tools, folder / DATA)
        rights, inside = found.rights, Inside()
        globals_there = cluster_roles.read_globals((folder / GLOBALS).read_text("utf-8"))
        members = [(row["role"], row["member"]) for row in self.swap.connection.execute(MEMBERSHIPS)]
        missing = cluster_roles.missing_roles(globals_there, self.manifest.roles, found.server.roles, members)
        inside.notes += cluster_roles.left_as_they_are(
            missing, [row["name"] for row in self.swap.connection.execute(SHUT)]
        )
        if rights.superuser:
            inside.missing = missing
            return inside
        inside.missing = cluster_roles.Missing(left=missing.left)
        known = {*self.manifest.roles, *found.server.roles}
        inside.problems += missing_rights(rights, found.properties, owners(listing, known))
        inside.problems += self._foreign_owners(listing, known)
        special = only_superusers_create(listing)
        if self.wanted is not None:  # which gets no event triggers
            special = [one for one in special if not one.startswith("event trigger ")]
        if special:
            inside.problems.append(f"Only a superuser can create {', '.join(special)}, and {rights.name} is none.")
        return inside

    def _foreign_owners(self, listing: str, known: set[str]) -> list[str]:
        """Owners who would have to be given things in schemas in which they may not create any."""
        found = in_schemas_of_others(listing, known, self.manifest.database.owner)
        pairs = [(one.owner, one.schema_owner) for one in found]
        rows = self.swap.connection.execute(MAY_CREATE, [[one[0] for one in pairs], [one[1] for one in pairs]])
        able = {(row["owner"], row["schema_owner"]) for row in rows}
        return [
            f"{one.owner} owns something in the schema {one.schema}, which belongs to {one.schema_owner}: only a"
            f" superuser can restore that, or GRANT {identifier(one.schema_owner).as_string()} TO"
            f" {identifier(one.owner).as_string()};"
            for one in found if (one.owner, one.schema_owner) not in able
        ]

    def _missing_by_manifest(self) -> cluster_roles.Missing:
        there = {row["name"] for row in self.swap.connection.execute("SELECT rolname AS name FROM pg_roles")}
        return cluster_roles.missing_roles(cluster_roles.Globals({}, ()), self.manifest.roles, there)

    def _leftovers(self, position: Position) -> tuple[str, ...]:
        """What killed calls left: of this copy, and of others without a name of their own that nobody works on."""
        names = [copy.name for copy in position.copies]
        for row in self.swap.connection.execute(DATABASES, {"database": self.name}):
            name, found, suffix = row["name"], markers.split(row["comment"])[1], RESTORING_SUFFIX.search(row["name"])
            backup = found.backup if found else suffix.group(1) if suffix else ""
            of = kept_name(self.request.database, backup)
            if found is None:  # killed between CREATE DATABASE and the marker
                is_ours = name == copy_name(of, backup)
            else:
                is_ours = found.state == markers.RESTORING and found.database == of
            if is_ours and name not in names and not self._is_held(of):
                names.append(name)
        return tuple(names)

    def _is_held(self, database: str) -> bool:
        got = self.swap.connection.execute(f"SELECT pg_try_advisory_lock({LOCK_KEY}) AS got", [database]).fetchone()
        if got["got"]:
            self.swap.connection.execute(f"SELECT pg_advisory_unlock({LOCK_KEY})", [database])
        return not got["got"]

    def _require(self, problems: list[str]) -> None:
        if problems:
            raise RunbookError(
                f"{self.manifest.backup_id} of {self.request.database!r} cannot be restored as {self.name!r}:"
                f" {' '.join(problems)}",
                "Nothing was changed; mend these and run the same command again.", problems=problems,
            )

    def _plan(self, leftovers: tuple[str, ...], missing: cluster_roles.Missing) -> None:
        for name in leftovers:
            self.plan.add("drop what a run that ended left", name, "unfinished copy", "absent", reversible=False)
        for role in missing.roles:
            log_in = "may log in" if role.login and self.request.roles_login else "may not log in"
            self.plan.add("create the role", role.name, "absent", f"{log_in}, no password")
        for one in missing.memberships:
            self.plan.add("grant the membership", one.member, "absent", f"member of {one.role}")
        rows = "" if self.wanted is None else f", with the rows of {', '.join('.'.join(one) for one in self.wanted)}"
        self.plan.add(
            "restore the backup beside everything else", self.name, "absent", f"backup {self.manifest.backup_id}{rows}"
        )

    # making

    def _filling(self, found: Found) -> Filling:
        request = self.request
        return Filling(
            request.login, request.place, self.manifest, self.progress, bin_directory=request.bin_directory,
            jobs=request.jobs, timeout_s=request.timeout_s, tablespaces=found.at_home,
        )

    @contextlib.contextmanager
    def _roles(self, missing: cluster_roles.Missing) -> Iterator[None]:
        """Create the roles; when what follows fails, they are dropped again."""
        connection = self.swap.connection
        with connection.transaction():
            for statement in cluster_roles.create_statements(
                missing, self._major, login=self.request.roles_login
            ):
                connection.execute(statement)
        try:
            yield
        except BaseException:
            try:
                cluster_roles.drop_roles(connection, [role.name for role in missing.roles])
            except errors.Error as error:
                self.left.append(f"The created roles could not be dropped again: {first_line(error).rstrip('.')}.")
            raise

    def _create(self, properties: Properties) -> None:
        # Even the default one, when it is named, takes a right to it.
        tablespace = None if properties.tablespace == DEFAULT_TABLESPACE else properties.tablespace
        building = copy_name(self.name, self.manifest.backup_id)
        load.create_database(self.swap.connection, building, self.manifest.database, tablespace)

    def _fill(self, found: Found, filling: Filling, folder: Path) -> None:
        request, manifest, connection, say = self.request, self.manifest, self.swap.connection, self.progress.say
        building = copy_name(self.name, manifest.backup_id)
        login = request.login.at(building)
        properties = found.properties if self.wanted is None else parts.closed(found.properties)
        copy = Database(building, 0, None, None, True, 0)
        with connection.transaction():
            self.swap.mark(copy, markers.Marker(markers.RESTORING, request.run, self.name, manifest.backup_id))
            # A limit of 0 would keep out whoever restores, where that is no superuser; and then the owner of a table
            # in the schema public must have the right to create there, which the owner of the database has.
            for statement in ("REVOKE ALL ON DATABASE {} FROM PUBLIC", "ALTER DATABASE {} OWNER TO {}"):
                connection.execute(sql.SQL(statement).format(identifier(building), identifier(properties.owner)))
            self.swap.alter(building, connection_limit=-1)
        say(f"restoring {manifest.backup_id} into {building}")
        chosen: set[tuple[str, str]] = set()
        if self.wanted is None:
            filling.load(connection, building, folder, [()])
        else:
            tools = find_client_tools(found.server.major, request.bin_directory)
            with parts.arguments(tools, folder / DATA, login, self.wanted, chosen) as arguments:
                filling.load(connection, building, folder, arguments)
        say("comparing every table with the manifest")
        self.values["notes"] += content.compare(
            login, manifest if self.wanted is None else parts.part_of(manifest, chosen), request.jobs, self.progress
        )
        with connection.transaction():
            replay.replay(connection, building, properties)
            if properties.acl is None:
                connection.execute(
                    sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(identifier(building))
                )
        say("collecting statistics (VACUUM ANALYZE)")
        with self.progress.during(lambda: "collecting statistics (VACUUM ANALYZE)"), connect(login, "restore") as new:
            new.execute("VACUUM (ANALYZE)")
        if request.application_check and self.wanted is None:
            say("asking the application's own check")
            with self.progress.during(lambda: "asking the application's own check"):
                self.values["application_check"] = content.ask_application(
                    login, request.application_check, request.check_timeout_s
                )
        if self.wanted is not None:
            self.values["tables"] = self._differences(chosen)
            self.values["lines"] = [parts.line(one) for one in self.values["tables"]]
        self._name(copy, properties)

    def _name(self, copy: Database, properties: Properties) -> None:
        """Give the copy its name, now that it is whole."""
        until = self.values["until"]
        marker = markers.Marker(
            markers.COPY, self.request.run, self.request.database, self.manifest.backup_id, until
        ) if until else None
        named = replace(copy, name=self.name, comment=markers.split(properties.comment)[0])
        with self.swap.connection.transaction():
            self.swap.rename(copy.name, self.name)
            self.swap.mark(named, marker)
            self.swap.alter(self.name, connection_limit=properties.connection_limit)

    def _drop_unfinished(self) -> None:
        """Drop the copy after a failure; when that fails too, the first error matters, and the next run drops it."""
        name = copy_name(self.name, self.manifest.backup_id)
        try:
            self.swap.drop(name)
        except (errors.Error, RunbookError) as error:
            self.left.append(f"The database {name} could not be dropped ({first_line(error)}); the next run does it.")

    def _differences(self, chosen: set[tuple[str, str]]) -> list[dict[str, Any]]:
        """Exact row counts of the restored tables, live and in the backup."""
        live: dict[tuple[str, str], int | None] = {}
        if self.request.live:
            try:
                counted = content.count_tables(
                    self.request.live.at(self.request.database), self.request.jobs, self.progress, only=chosen
                )
                live = {(table.schema, table.name): table.rows for table in counted}
            except RunbookError as error:
                self.values["notes"].append(f"The rows of the live tables are not known: {error.message}")
        return parts.differences(self.manifest, chosen, live)
