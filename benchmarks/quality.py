"""What measuring users' answers costs beside making them, and that it loses none it should have.

    python -m benchmarks.quality [--model indigo] [--images 400] [--clients 8]

Run in a project whose fleet is up, with a live release and the gateway's `sample_share` set.
Clients ask for answers to the evaluated prompts without a pause. CPU seconds are those of the trees
of the slots and of the measuring process, user and system; of the latter without loading the judge,
which is told apart. The last line:

    quality: share=<asked> measured=<share of the answers> cpu_share=<measuring / making>
        loading_cpu_seconds=<x>                                                     (on one line)
"""

import argparse
import random
import threading
from collections.abc import Iterable

import psutil

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import family_of
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.core.waiting import wait_until
from adire_assets.monitoring import quality
from adire_assets.serving import record, release
from adire_assets.serving.client import ask
from adire_assets.serving.fleet import supervisor
from adire_assets.serving.gateway import routing


def cpu_seconds(roots: Iterable[psutil.Process]) -> float:
    """User and system, of processes and their children, those that have ended among them."""
    total = 0.0
    for root in roots:
        for process in [root, *root.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="indigo")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    project = Project.find()
    fleet = load_fleet(project)
    target = next(iter(fleet.targets))
    live = record.read(project, target, options.model).live
    assert live, "no release is live"
    plug = family_of(project, options.model)
    evaluation = Store(project).open(release.read_record(project, options.model, live).evaluation)
    requests = plug.serve.functions.requests(evaluation.path)
    endpoint = routing.endpoint_of(project, fleet, target)
    slots = [
        psutil.Process(state["pid"])
        for name, state in supervisor.program_states(project).items()
        if name.startswith("slot-")
    ]
    measuring = psutil.Process(supervisor.program_states(project)[f"quality-{target}"]["pid"])

    def measured() -> int:
        return quality.read(project, target, options.model, live).answers

    def draw(count: int) -> None:
        left, lock = [count], threading.Lock()

        def client(seed: int) -> None:
            chance = random.Random(seed)
            while True:
                with lock:
                    if not left[0]:
                        return
                    left[0] -= 1
                asked = plug.serve.functions.again(chance.choice(requests), chance)
                ask(endpoint, plug, options.model, asked)

        clients = [threading.Thread(target=client, args=(n,)) for n in range(options.clients)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()

    before = measured()

    def warm() -> bool:
        draw(options.clients)
        return measured() > before

    assert wait_until(warm, 300), "no answer is measured"
    loading = cpu_seconds([measuring])
    first, made = measured(), cpu_seconds(slots)
    draw(options.images)
    made, cost = cpu_seconds(slots) - made, cpu_seconds([measuring]) - loading
    share = (measured() - first) / options.images
    asked = fleet.targets[target].gateway.sample_share
    print(
        f"quality: share={asked:g} measured={share:.3f} cpu_share={cost / made:.4f} "
        f"loading_cpu_seconds={loading:.1f}"
    )


if __name__ == "__main__":
    main()
