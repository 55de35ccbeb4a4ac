"""Clients that send all along: a process of its own with a thread and a channel for each.

    with Clients(address, model, 8) as clients:
        ...
        clients.answers     # read while they run
    clients.summary()

Each has one long-lived gRPC channel, on request with gRPC's own retry policy, and sends its next
request when the last is answered.
"""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

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
    """One request: when it ended (seconds since 1970), how long it took, who answered."""

    at: float
    seconds: float
    release: int | None
    error: str | None


@dataclass
class Clients:
    address: str
    model: str
    count: int
    retry: bool = False
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        arguments = [self.address, self.model, str(self.count), str(int(self.retry))]
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
        return [answer for answer in self.answers if answer.error]

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


def main() -> None:
    import grpc

    address, model, count, retry = sys.argv[1:]
    over = threading.Event()
    writing = threading.Lock()

    def send() -> None:
        _, stub = connect(address, retry == "1")
        request = infer_request(model, "indigo cloth")
        while not over.is_set():
            began = time.perf_counter()
            number, error = None, None
            try:
                answer = stub.ModelInfer(request, timeout=60)
                number = int(answer.model_version)
            except grpc.RpcError as failure:
                error = f"{failure.code().name}: {failure.details()}"
            took = time.perf_counter() - began
            with writing:
                print(json.dumps([time.time(), took, number, error]), flush=True)

    threads = [threading.Thread(target=send) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
