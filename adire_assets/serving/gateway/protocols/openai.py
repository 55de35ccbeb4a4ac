"""OpenAI's interface of language models: chats and completions, streamed and in one piece."""

from pathlib import Path

from adire_assets.serving.gateway.protocol import HTTP_OUTCOMES, InferenceProtocol

HTTP = InferenceProtocol(
    "openai",
    suffix="-openai",
    port="http_port",
    grpc=False,
    # Adapters come and go by a slot's folder alone, and metrics are for Prometheus.
    model_paths="/v1/(chat/)?completions",
    server_paths=("/v1/models",),
    scripts=(Path(__file__).with_name("openai.lua"),),
    outcomes=HTTP_OUTCOMES,
    # Of an engine that failed before it began to answer, or does not hold the release.
    retriable={"x-adire-retry": "1"},
    answers=Path(__file__).with_name("openai_answers.lua"),
    streams=True,
    client="adire_assets.serving.gateway.protocols.openai_client:ask",
    stream="adire_assets.serving.gateway.protocols.openai_client:stream",
    read="adire_assets.serving.gateway.protocols.openai_client:read",
)
