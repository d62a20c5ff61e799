"""What an operator learns about a real Redis."""

from __future__ import annotations

import contextlib

import pytest
import redis
from ansible_collections.sre.runbooks.plugins.module_utils.health import samples

from lab.machine import wait_for
from lab.redis import RedisServer


@pytest.fixture
def client(redis_server):
    with redis.Redis(host=redis_server.host, port=redis_server.port, password=redis_server.password) as client:
        yield client


def cache(server: RedisServer, **options):
    return {"kind": "redis", "name": "cache", "host": server.host, "port": server.port, "password": server.password,
            **options}


def test_answers_with_its_password_and_all_that_needs_no_second_sample_is_measured(redis_server, probe):
    """A9 A53: with the password, which the guide's ping left out."""
    found = probe(cache(redis_server, measures=["all"]))
    assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(
        ["cache", "cache.memory_percent", "cache.persistence_errors"], "ok")
    assert sorted(line.split(":")[0] for line in found.not_measured) == [
        "it cache.evictions_per_second", "it cache.hit_percent"]


def test_wrong_password_is_critical_and_none_is_unknown(redis_server, probe):
    wrong, without = probe(cache(redis_server, password="gu3ss")), probe(cache(redis_server, password=None))
    assert (wrong["cache"]["status"], without["cache"]["status"]) == ("critical", "unknown")
    assert "WRONGPASS" in wrong["cache"]["message"]
    assert "wants a password" in without["cache"]["message"]
    assert "gu3ss" not in str(wrong)


def test_hit_ratio_is_that_of_the_time_between_two_samples(redis_server, client, probe, tmp_path, monkeypatch):
    """A19 ⚠: hits since the server's start are no rate."""
    monkeypatch.setattr(samples, "APART_S", 0.0)
    file = tmp_path / "samples.json"
    client.set("loaf", 1)
    for _unused in range(200):
        client.get("loaf")
    probe(cache(redis_server, measures=["hit_percent"]), samples_file=file)
    for _unused in range(10):
        client.get("loaf")
    for _unused in range(30):
        client.get("no such loaf")
    check = probe(cache(redis_server, measures=["hit_percent"]), samples_file=file)["cache.hit_percent"]
    assert (check["value"], check["status"]) == (25, "warning")
    assert "10 of 40 reads" in check["message"]


def test_evictions_are_a_rate(server_folder, probe, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "APART_S", 0.0)
    settings = {"maxmemory": "2mb", "maxmemory-policy": "allkeys-lru"}
    with RedisServer(server_folder / "evicting", settings=settings) as server:
        with redis.Redis(host=server.host, port=server.port, password=server.password) as client:
            probe(cache(server, measures=["all"]), samples_file=tmp_path / "s.json")
            for number in range(300):
                client.set(f"loaf {number}", "x" * 20000)
        found = probe(cache(server, measures=["all"]), samples_file=tmp_path / "s.json")
    assert found["cache.evictions_per_second"]["status"] == "warning"
    assert found["cache.evictions_per_second"]["value"] > 0
    assert found["cache.memory_percent"]["status"] == "ok"  # a cache that evicts is full by design
    assert "allkeys-lru" in found["cache.memory_percent"]["message"]


def test_full_memory_that_refuses_writes_is_critical(server_folder, probe):
    settings = {"maxmemory": "4mb", "maxmemory-policy": "noeviction"}
    with RedisServer(server_folder / "full", settings=settings) as server:
        with (
            redis.Redis(host=server.host, port=server.port, password=server.password) as client,
            contextlib.suppress(redis.OutOfMemoryError),
        ):
            for number in range(1000):
                client.set(f"loaf {number}", "x" * 20000)
            pytest.fail("It took 20 MB into 4 MB.")
        found = probe(cache(server, measures=["memory_percent"]))
    assert found["cache.memory_percent"]["status"] == "critical"
    assert "noeviction" in found["cache.memory_percent"]["message"]


def test_snapshot_that_cannot_be_written_is_critical(server_folder, probe):
    folder = server_folder / "unsaved"
    with RedisServer(folder) as server, redis.Redis(
        host=server.host, port=server.port, password=server.password
    ) as client:
        where = client.config_get("dir")["dir"]
        (server_folder / "unsaved-data").mkdir()
        client.config_set("dir", str(server_folder / "unsaved-data"))
        (server_folder / "unsaved-data").rmdir()
        client.set("loaf", 1)
        client.bgsave()
        assert wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 10)
        found = probe(cache(server, measures=["persistence_errors"]))
        client.config_set("dir", where)
    assert found["cache.persistence_errors"]["status"] == "critical"
    assert "the last snapshot" in found["cache.persistence_errors"]["message"]


def test_port_that_speaks_something_else_is_unknown(postgresql_server, probe):
    found = probe({"kind": "redis", "host": "127.0.0.1", "port": postgresql_server.port}, timeout_seconds=2.0)
    assert found["redis"]["status"] == "unknown"
