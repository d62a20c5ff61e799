"""What is quoted from a log carries no password (X18)."""

from __future__ import annotations

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.redact import without_secrets


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("redis://:s3cret@cache:6379/0 is down", "redis://:***@cache:6379/0 is down"),
        ("postgresql+asyncpg://shop:s3:cr@et@db/shop", "postgresql+asyncpg://shop:***@db/shop"),
        ("dsn: host=db user=shop password=s3cret dbname=shop", "dsn: host=db user=shop password=*** dbname=shop"),
        ('{"db_password": "s3 cret", "port": 5432}', '{"db_password": ***, "port": 5432}'),
        ("API_KEY='s3cret' API-Token: s3cret", "API_KEY=*** API-Token: ***"),
        ("Authorization: Bearer s3cret-s3cret", "Authorization: Bearer ***"),
        ("password authentication failed for user shop", "password authentication failed for user shop"),
        ("listening on http://127.0.0.1:8080/ready", "listening on http://127.0.0.1:8080/ready"),
        ("error at 12:30, mail jane@example.org", "error at 12:30, mail jane@example.org"),
    ],
)
def test_secrets_are_hidden_and_everything_else_stays(text: str, quoted: str) -> None:
    assert without_secrets(text) == quoted
