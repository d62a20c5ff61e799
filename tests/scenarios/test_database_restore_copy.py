# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup restored beside the live database, as an operator does it."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from psycopg import sql

from tests.scenarios.backup_platform import ODD_NAME, Backups

ORDERS = ("-e", "target=orders-db", "-e", "approve=orders-db")
COPY = ("database_restore_copy", *ORDERS, "-e", "database_restore_copy_least_rung=none")


def test_lost_rows_come_into_a_copy_beside_the_live_ones_and_all_of_it_to_an_empty_server(backups: Backups) -> None:
    """A85 ⚠ A82 ⚠ B43 ⚠ X18: nothing live is exchanged or stopped; roles come first, each said with its statement."""
    backups.sql("GRANT SELECT ON orders TO shop")
    assert backups.play("database_backup", *ORDERS).returncode == 0
    backups.sql("DELETE FROM orders WHERE id <= 100")
    part = backups.play(*COPY, "-e", "tables=orders")
    assert part.returncode == 0, part.stdout[-4000:]
    assert "public.orders: 5,000 rows in the backup, 4,900 live (-100)" in part.stdout
    (name,) = backups.left()
    assert (backups.orders(), backups.orders(name)) == (4900, 5000)
    try:
        played = backups.play(*COPY, "-e", "to_server=scratch", "-vvv")
        assert played.returncode == 0, played.stdout[-4000:]
        for secret in (backups.password, backups.scratch_server.login.password):
            assert secret not in played.stdout
            assert not [path for path in backups.written() if secret.encode() in path.read_bytes()]
        assert "LOGIN PASSWORD" in played.stdout
        with connect(backups.scratch_server.login.at(ODD_NAME), "tests") as copy:
            assert copy.execute("SELECT count(*) AS n FROM orders").fetchone()["n"] == 5000
    finally:
        with connect(backups.scratch_server.login, "tests") as scratch:
            scratch.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(identifier(ODD_NAME)))
            scratch.execute("DROP ROLE IF EXISTS shop")
