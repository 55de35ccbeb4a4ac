"""What a request of the default size takes in a slot, from which the gateway's limit follows."""

from concurrent.futures import ThreadPoolExecutor

from adire_assets.core.answer import UsualRequest
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.serving.client import ask
from adire_assets.serving.release import ReleaseRecord, family_of_release


def usual_request(project: Project, wanted: ReleaseRecord, address: str) -> UsualRequest | None:
    """As the server at `address` shows it, which has the release loaded, when it is asked for as
    many answers at once as it works on together; None of a family that does not tell."""
    plug, store = family_of_release(project, wanted), Store(project)
    served = plug.serve.functions
    if not hasattr(served, "usual_request"):
        return None
    serving = store.open(wanted.repository).json("serving.json")
    evaluated = served.requests(store.open(wanted.evaluation).path)[0]
    requests = served.together(serving, evaluated)
    with ThreadPoolExecutor(len(requests)) as pool:
        asked = [pool.submit(ask, address, plug, wanted.model, r, wanted.number) for r in requests]
        told = [one.result().provenance for one in asked]
    return served.usual_request(serving, told)
