"""KServe's inference protocol, version 2, as a Triton speaks it: gRPC, HTTP, and streams of gRPC.

A stream is Triton's own extension: answers come in pieces. Here it carries one request, which the
client ends when it has sent it, since no request is routed before all of it has been read.
"""

from pathlib import Path

from adire_assets.serving.gateway.protocol import (
    HTTP_OUTCOMES,
    NOT_FOUND,
    InferenceProtocol,
    grpc_outcomes,
)

SERVICE = "inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health/Check"
FOLDER = Path(__file__).parent

GRPC = InferenceProtocol(
    "kserve-grpc",
    suffix="",
    port="grpc_port",
    grpc=True,
    # Loading, shared memory, logging and tracing are not for clients.
    model_paths=f"/{SERVICE}/Model(Infer|Ready|Metadata|Config)",
    server_paths=(HEALTH, *(f"/{SERVICE}/Server{name}" for name in ("Live", "Ready", "Metadata"))),
    scripts=(FOLDER / "kserve_grpc.lua",),
    outcomes=grpc_outcomes(),
    # A Triton that is just starting knows no model yet. What no slot has loaded never gets here.
    retriable={"grpc-status": str(NOT_FOUND)},
    methods=(SERVICE, ("ModelInfer",)),
    client="adire_assets.serving.gateway.protocols.kserve_client:ask",
    read="adire_assets.serving.gateway.protocols.kserve_exchange:read_grpc",
)
STREAM = InferenceProtocol(
    "kserve-stream",
    suffix="-stream",
    port="grpc_port",
    grpc=True,
    model_paths=f"/{SERVICE}/Model(StreamInfer|Ready|Metadata|Config)",
    server_paths=(),
    scripts=(FOLDER / "kserve_grpc.lua",),
    outcomes=grpc_outcomes(),
    retriable={"grpc-status": str(NOT_FOUND)},
    answers=FOLDER / "kserve_stream_answers.lua",
    streams=True,
    methods=(SERVICE, ("ModelStreamInfer",)),
    client="adire_assets.serving.gateway.protocols.kserve_client:ask_stream",
    stream="adire_assets.serving.gateway.protocols.kserve_client:stream",
    read="adire_assets.serving.gateway.protocols.kserve_exchange:read_stream",
)
HTTP = InferenceProtocol(
    "kserve-http",
    suffix="-http",
    port="http_port",
    grpc=False,
    model_paths="/v2/models/[^/]+(/versions/[0-9]+)?(/infer|/ready|/config)?",
    server_paths=("/v2", "/v2/health/live", "/v2/health/ready"),
    scripts=(FOLDER / "kserve_http.lua",),
    outcomes=HTTP_OUTCOMES,
    read="adire_assets.serving.gateway.protocols.kserve_exchange:read_http",
)
