"""Random tiny models, made once for the session, and one thread: two would only wait."""

from pathlib import Path

import pytest
import torch

from tests.support import tiny, training


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_random_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def bases(
    tmp_path_factory: pytest.TempPathFactory, random_base: Path
) -> dict[tiny.Architecture, Path]:
    """A random base of each architecture; that of SD 1.5 is `random_base`."""
    folder = tmp_path_factory.mktemp("bases")
    others: tuple[tiny.Architecture, ...] = ("sd2", "sdxl")
    made = {name: tiny.make_random_base(folder / name, architecture=name) for name in others}
    return {"sd15": random_base, **made}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="session")
def adapter(
    tmp_path_factory: pytest.TempPathFactory, random_base: Path, dataset: Path, one_thread: None
) -> Path:
    """Trained on the UNet and the text encoder, with an alpha that is not the rank."""
    return training.run(
        tmp_path_factory.mktemp("adapter"),
        random_base,
        dataset,
        rank=2,
        lora_alpha=8,
        learning_rate=3e-2,
        max_train_steps=6,
        train_text_encoder=True,
    )
