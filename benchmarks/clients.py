"""Clients that send all along: a process of its own with a thread and a channel for each.

    with Clients(address, model, 8) as clients:
        ...
        clients.answers     # read while they run
    clients.summary()

Each has one long-lived connection, on request with the retries of its protocol's own client, and
sends its next request when the last is answered: of images over gRPC, with `streams` of chats, see
`benchmarks.chats`.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.chats import Chats

STREAMED_TOKENS = 24
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.5s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@dataclass(frozen=True)
class Answer:
    """One request: when it ended (seconds since 1970), how long it took, who answered.

    `begun`: the head of the answer had come, and `told`: an event in it said what `error` is.
    """

    at: float
    seconds: float
    release: int | None
    error: str | None
    begun: bool = False
    told: bool = False


@dataclass
class Clients:
    address: str
    model: str
    count: int
    retry: bool = False
    streams: bool = False
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        options = ["retry"] * self.retry + ["streams"] * self.streams
        arguments = [self.address, self.model, str(self.count), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.clients", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.wait(lambda: bool(self.answers))
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.reader.join()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.answers.append(Answer(*json.loads(line)))

    def wait(self, condition, seconds: float = 120.0) -> None:
        """Until `condition()` holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            assert self.process.poll() is None, "the clients have ended"
            time.sleep(0.02)

    @property
    def failed(self) -> list[Answer]:
        """Those without an answer."""
        return [answer for answer in self.answers if answer.error and not answer.begun]

    @property
    def broken(self) -> list[Answer]:
        """Those whose answer began, and is not whole or not of one release."""
        return [answer for answer in self.answers if answer.error and answer.begun]

    def milliseconds(self, share: float) -> float:
        """A quantile of the latency of what was answered."""
        times = sorted(answer.seconds for answer in self.answers if not answer.error)
        if share == 0.5:
            return median(times) * 1000
        return times[min(int(len(times) * share), len(times) - 1)] * 1000


def infer_request(model: str, prompt: str):
    """A ModelInferRequest for one image."""
    from tritonclient.grpc import service_pb2

    text = prompt.encode()
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="prompt", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(text)
    return request


def connect(address: str, retry: bool = False):
    """(channel, stub) with a connection of its own."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    options: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", 2**26),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 100),
    ]
    if retry:
        options.append(("grpc.service_config", json.dumps(RETRIES)))
    channel = grpc.insecure_channel(address, options)
    return channel, service_pb2_grpc.GRPCInferenceServiceStub(channel)


def image_sender(address: str, model: str, retry: bool) -> Callable[[], Answer]:
    """Asks for one image after the other."""
    import grpc

    _, stub = connect(address, retry)
    request = infer_request(model, "indigo cloth")

    def send() -> Answer:
        began = time.perf_counter()
        number, error = None, None
        try:
            answer = stub.ModelInfer(request, timeout=60)
            number = int(answer.model_version)
        except grpc.RpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        return Answer(time.time(), time.perf_counter() - began, number, error)

    return send


def stream_sender(address: str, model: str, retry: bool) -> Callable[[], Answer]:
    """Asks for one stream after the other."""
    chats = Chats(address, model, STREAMED_TOKENS, retry)

    def send() -> Answer:
        one = chats.ask()
        return Answer(time.time(), one.seconds, one.release, one.error, one.begun, one.told)

    return send


def main() -> None:
    address, model, count, *options = sys.argv[1:]
    over = threading.Event()
    writing = threading.Lock()
    make = stream_sender if "streams" in options else image_sender

    def send() -> None:
        ask = make(address, model, "retry" in options)
        while not over.is_set():
            answer = ask()
            with writing:
                print(json.dumps(astuple(answer)), flush=True)

    threads = [threading.Thread(target=send) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
