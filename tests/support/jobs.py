"""Worker functions that do not end well."""

from adire_assets.errors import UserError
from adire_assets.worker import Progress


def refuse(*, progress: Progress) -> None:
    raise UserError("there is no cloth to dye")


def crash(*, progress: Progress) -> None:
    raise RuntimeError("the vat leaks")
