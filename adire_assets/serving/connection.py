"""Where requests go, and what a server that does not answer them becomes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import fleet_file_name
from adire_assets.core.errors import UserError

LARGEST_MESSAGE = 2**31 - 1  # bytes


@dataclass(frozen=True)
class Endpoint:
    """Where requests go: "host:port" of a slot or a gateway, over TLS when there is an authority.

    `authority` is the PEM file that vouches for the server's certificate, `name` the name in it
    where that is not the host, `token` a bearer's token, `token_command` what makes one.
    """

    address: str
    authority: Path | None = None
    name: str | None = None
    token: str | None = None
    token_command: str = "adire auth token NAME"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


def host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Unanswered(UserError):
    """A server that did not do what it was asked; `status` is gRPC's name, such as "INTERNAL"."""

    def __init__(self, sentence: str, status: str | None) -> None:
        super().__init__(sentence)
        self.status = (status or "UNKNOWN").removeprefix("StatusCode.")


@contextmanager
def connect(endpoint: Endpoint | str) -> Iterator[Any]:
    """A tritonclient.grpc client; what the server cannot do becomes `Unanswered`."""
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    secure = endpoint.authority is not None
    try:
        with tritonclient.grpc.InferenceServerClient(
            endpoint.address,
            ssl=secure,
            root_certificates=str(endpoint.authority) if secure else None,
            channel_args=_arguments(endpoint),
        ) as client:
            yield client
    except InferenceServerException as error:
        said = sentence(endpoint, error.status(), error.message())
        raise Unanswered(said, error.status()) from None


@contextmanager
def channel(endpoint: Endpoint) -> Iterator[Any]:
    """A channel of gRPC, for what that client has no method for; it raises grpc.RpcError."""
    import grpc

    if endpoint.authority is None:
        opened = grpc.insecure_channel(endpoint.address, _arguments(endpoint))
    else:
        vouching = grpc.ssl_channel_credentials(endpoint.authority.read_bytes())
        opened = grpc.secure_channel(endpoint.address, vouching, _arguments(endpoint))
    with opened:
        yield opened


def _arguments(endpoint: Endpoint) -> list[tuple[str, Any]]:
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", LARGEST_MESSAGE),
        ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        # Without its own pool, a client waits out the back-off of one that met the server down.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if endpoint.name:
        arguments.append(("grpc.ssl_target_name_override", endpoint.name))
    return arguments


def sentence(endpoint: Endpoint, status: str | None, message: str) -> str:
    """What a client's user is told, by gRPC's status of what went wrong, or "StatusCode.X"."""
    address = endpoint.address
    if status == "StatusCode.INVALID_ARGUMENT":
        return message
    if status in ("StatusCode.UNAUTHENTICATED", "StatusCode.PERMISSION_DENIED"):
        return (
            f"the gateway at {address} lets nobody in without a good token: {message}; make one "
            f"with `{endpoint.token_command}` and set ADIRE_TOKEN to it"
        )
    if "unknown model" in message or status == "StatusCode.NOT_FOUND":
        return f"the server at {address} does not serve this: {message}; `adire status` shows why"
    if status == "StatusCode.DEADLINE_EXCEEDED":
        return f"the server at {address} did not answer in time; `adire status` shows how it is"
    if status == "StatusCode.UNAVAILABLE" and "connect" in message.lower():
        return (
            f"no server answers at {address}; start the local fleet with `adire up`, or correct "
            f"the address in {fleet_file_name()}"
        )
    return f"the server at {address} did not carry this out: {message}"
