"""A real Redis Cluster for tests: three masters, a replica of each, six processes of the embedded server.

with running_cluster(tmp_path) as cluster: cluster.url, cluster.owner_of(key), cluster.move(slots, of, to)

The nodes begin with a finished `nodes.conf` each, so that they need not meet first.
"""

import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from deploy.embedded_redis import Binaries, configure
from tests.free_ports import free_ports, with_other_ports
from tests.running_redis import RunningRedis, stop_all

SLOTS = 16_384
MASTERS = 3
NODE_TIMEOUT_MS = 1000
READY_TIMEOUT_S = 60.0


class RunningCluster:
    """Its nodes: masters first, then their replicas in the same order."""

    def __init__(self, nodes: list[RunningRedis], ids: list[str]) -> None:
        self.nodes = nodes
        self.ids = ids
        password = nodes[0].instance.password
        self.url = f"redis+cluster://:{password}@" + ",".join(f"127.0.0.1:{one.instance.port}" for one in nodes)

    def client(self, node: RunningRedis) -> redis.Redis:
        """A client of one node alone."""
        return redis.Redis.from_url(node.url, protocol=2, socket_timeout=2, retry=Retry(NoBackoff(), 0))

    def owner_of(self, key: bytes) -> RunningRedis:
        """The master that has a key's slot now, as the first node that answers has it."""
        for node in self.nodes:
            with suppress(redis.RedisError, OSError):
                for first, last, (_, port, *_), *_replicas in self.ask(node, b"CLUSTER", "SLOTS"):
                    if first <= key_slot(key) <= last:
                        return next(one for one in self.nodes if one.instance.port == port)
        raise LookupError("no node knows who has this slot")

    def ask(self, node: RunningRedis, *words: object) -> Any:
        """One node's reply to a command."""
        with self.client(node) as client:
            return client.execute_command(*words)

    def id_of(self, node: RunningRedis) -> str:
        """The name that nodes have for each other."""
        return self.ids[self.nodes.index(node)]

    def wait_replicated(self, master: RunningRedis) -> None:
        """Block until a master's replica has what it has written so far."""
        with self.client(master) as client:
            offset = client.info("replication")["master_repl_offset"]
            deadline = time.monotonic() + READY_TIMEOUT_S
            while client.info("replication").get("slave0", {}).get("offset", -1) < offset:
                assert time.monotonic() < deadline, "the replica does not follow"
                time.sleep(0.02)

    def is_sound(self, nodes: Iterable[RunningRedis]) -> bool:
        """Whether these nodes, as they see it, serve all slots, and their replicas follow."""
        try:
            states = [self.ask(node, b"CLUSTER", "INFO") for node in nodes]
            roles = [self.ask(node, b"ROLE") for node in nodes]
        except (redis.RedisError, OSError):
            return False
        follow = all(role[0] == b"master" or role[3] == b"connected" for role in roles)
        return follow and all(b"cluster_state:ok" in state for state in states)

    def wait_sound(self, nodes: Iterable[RunningRedis] | None = None) -> None:
        """Block until these nodes, or all, serve all slots."""
        nodes = list(nodes or self.nodes)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.is_sound(nodes):
            assert time.monotonic() < deadline, "the cluster did not become sound"
            time.sleep(0.05)

    def allow_failover(self, is_allowed: bool) -> None:
        """Whether replicas may take over from a lost master."""
        for node in self.nodes:
            with suppress(redis.RedisError, OSError):
                self.ask(node, b"CONFIG", "SET", "cluster-replica-no-failover", "no" if is_allowed else "yes")

    def move(self, slots: Iterable[int], of: RunningRedis, to: RunningRedis) -> None:
        """Move slots with their keys from one master to another, as `redis-cli --cluster reshard` does."""
        from_id, to_id = self.id_of(of), self.id_of(to)
        password = to.instance.password
        with self.client(of) as source, self.client(to) as target:
            for slot in slots:
                target.execute_command(b"CLUSTER", "SETSLOT", slot, "IMPORTING", from_id)
                source.execute_command(b"CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)
                while keys := source.execute_command(b"CLUSTER", "GETKEYSINSLOT", slot, 100):
                    address = ("127.0.0.1", to.instance.port, "", 0, 5000)
                    source.execute_command(b"MIGRATE", *address, "REPLACE", "AUTH", password, "KEYS", *keys)
                for client in (target, source):
                    client.execute_command(b"CLUSTER", "SETSLOT", slot, "NODE", to_id)


@contextmanager
def running_cluster(folder: Path, binaries: Binaries) -> Iterator[RunningCluster]:
    """A cluster that runs as long as the block. Raises DidNotStart."""
    cluster = with_other_ports(lambda: _started(folder / secrets.token_hex(4), binaries))
    try:
        yield cluster
    finally:
        stop_all(cluster.nodes)


def _started(folder: Path, binaries: Binaries) -> RunningCluster:
    password = secrets.token_hex(16)
    ids = [secrets.token_hex(20) for _ in range(2 * MASTERS)]
    ports = free_ports(2 * len(ids))
    bus = ports[len(ids) :]
    instances = []
    for node_id, port in zip(ids, ports, strict=False):
        (folder / node_id).mkdir(parents=True)
        (folder / node_id / "password").write_text(password)
        instances.append(configure(folder / node_id, Binaries(binaries.server, None), maxmemory_mb=64, port=port))
    for place, instance in enumerate(instances):
        lines = [_line(ids, instances, bus, other, place) for other in range(len(ids))]
        (instance.folder / "nodes.conf").write_text("".join(lines) + "vars currentEpoch 3 lastVoteEpoch 0\n")
        with (instance.folder / "redis.conf").open("a") as config:
            config.write(
                f"cluster-enabled yes\ncluster-port {bus[place]}\ncluster-node-timeout {NODE_TIMEOUT_MS}\n"
                f"cluster-require-full-coverage no\nmasterauth {password}\nrepl-diskless-sync-delay 0\n"
                "cluster-replica-validity-factor 0\n"
            )
    nodes = [RunningRedis(instance) for instance in instances]
    with ExitStack() as stack:
        stack.callback(stop_all, nodes)
        for node in nodes:
            node.wait_ready()
        cluster = RunningCluster(nodes, ids)
        cluster.wait_sound()
        stack.pop_all()
    return cluster


def _line(ids: list[str], instances: list[Any], bus: list[int], of: int, myself: int) -> str:
    """One node in another's, or its own, nodes.conf."""
    master = of % MASTERS
    flags = ("myself," if of == myself else "") + ("master" if of < MASTERS else "slave")
    follows = "-" if of < MASTERS else ids[master]
    first, end = (-(-SLOTS * n // MASTERS) for n in (master, master + 1))
    slots = f" {first}-{end - 1}" if of < MASTERS else ""
    address = f"127.0.0.1:{instances[of].port}@{bus[of]}"
    return f"{ids[of]} {address} {flags} {follows} 0 0 {master + 1} connected{slots}\n"
