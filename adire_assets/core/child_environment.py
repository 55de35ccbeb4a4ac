"""Which of the caller's environment variables a child process gets: those named below, no others.

An activated environment, a git hook or a shell with PYTHONHOME, PYTHONPATH or LD_PRELOAD would
otherwise decide what a child imports, and a server would run with another standard library than the
one that it was built for. `ADIRE_PASS` (names, comma separated) adds to the list.
"""

import os
from collections.abc import Mapping

NAMES = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ"),
    *("TMPDIR", "TEMP", "TMP", "TOKENIZERS_PARALLELISM"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy")
PREFIXES = (
    *("ADIRE_", "LC_", "XDG_"),
    # What the accelerator and the numeric libraries are told.
    *("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "CUBLAS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),
)
# Who may fetch data and models: for steps, not for servers.
ACCOUNTS = (
    *("AWS_", "AZURE_", "GOOGLE_", "GCLOUD_", "CLOUDSDK_", "OSS_", "DVC_", "HF_", "HUGGINGFACE_"),
    *("MLFLOW_", "DAGSTER_", "PG", "SSH_", "GIT_SSH", "GIT_SSL", "GIT_ASKPASS", "KRB5"),
)
NEVER = ("DAGSTER_PIPES",)  # the context of one child, which another must not take for its own
# Its parent's process id: a child whose parent ended before it could watch it does not begin.
PARENT = "ADIRE_PARENT"
DRIVERS = ("nvidia", "cuda")  # folders of LD_LIBRARY_PATH in which containers keep the GPU's driver


def child_environment(
    *, accounts: bool = True, given: Mapping[str, str] | None = None, **own: str
) -> dict[str, str]:
    """The environment of a child of this process: the allowed variables of `given` (default: this
    process's), `own`, and this process's id under PARENT.

    `accounts=False` leaves out the variables that give access to storage and registries.
    """
    given = os.environ if given is None else given
    asked_for = {name.strip() for name in given.get("ADIRE_PASS", "").split(",")}
    prefixes = PREFIXES + ACCOUNTS if accounts else PREFIXES
    found = {
        name: value
        for name, value in given.items()
        if name in asked_for
        or name in NAMES
        or name.lower() in PROXIES
        or (name.startswith(prefixes) and not name.startswith(NEVER))
    }
    if drivers := driver_folders(given):
        found.setdefault("LD_LIBRARY_PATH", drivers)
    return found | {PARENT: str(os.getpid())} | own


def driver_folders(given: Mapping[str, str]) -> str:
    """The part of LD_LIBRARY_PATH that holds a GPU's driver."""
    folders = given.get("LD_LIBRARY_PATH", "").split(":")
    return ":".join(one for one in folders if any(word in one.lower() for word in DRIVERS))
