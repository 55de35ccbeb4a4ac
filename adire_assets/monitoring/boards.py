"""Grafana's boards of a fleet: service, rollouts, evaluated quality, costs, training.

    write(folder, "http://127.0.0.1:9090")

The boards are the files of `grafana/`, copied as they are; what tells Grafana of them names folder
and Prometheus. docs/metrics.md says how to start Grafana on the folder.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.core.errors import UserError
from adire_assets.core.store import write_bytes

BOARDS = Path(__file__).with_name("grafana")
DATASOURCE = "adire-prometheus"


def board_files() -> list[Path]:
    """The boards, each a JSON file of Grafana's format."""
    return sorted(BOARDS.glob("*.json"))


def write(folder: Path, prometheus: str) -> list[Path]:
    """Write boards/ and provisioning/ below `folder`; their paths. `prometheus` is an address.

    UserError when the folder cannot be written to.
    """
    if not prometheus.startswith(("http://", "https://")):
        raise UserError(f"{prometheus} is no address of a Prometheus; give it as http://HOST:PORT")
    places = {folder / "boards" / board.name: board.read_bytes() for board in board_files()}
    source = {
        "name": "Adire",
        "type": "prometheus",
        "uid": DATASOURCE,
        "access": "proxy",
        "url": prometheus,
        "isDefault": True,
    }
    shown = {
        "name": "Adire",
        "folder": "Adire",
        "type": "file",
        "options": {"path": str((folder / "boards").absolute())},
    }
    told: dict[str, Any] = {
        "datasources": {"apiVersion": 1, "datasources": [source]},
        "dashboards": {"apiVersion": 1, "providers": [shown]},
    }
    for kind, content in told.items():
        places[folder / "provisioning" / kind / "adire.yaml"] = _yaml(content)
    try:
        for path, content in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}; name another") from None
    return list(places)


def _yaml(content: dict[str, Any]) -> bytes:
    output = BytesIO()
    YAML().dump(content, output)
    return output.getvalue()
