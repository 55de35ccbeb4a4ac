"""The roles of the studio's users, as claims of their tokens, and what each may do."""

from collections.abc import Iterable

from adire_assets.core.errors import UserError

# Action -> the roles that may do it. Everyone who is let in may look at everything.
PERMISSIONS: dict[str, tuple[str, ...]] = {
    "generate": ("designer", "operator", "approver"),
    "rate": ("designer", "operator", "approver"),
    "give feedback": ("designer", "operator", "approver"),
    "review feedback": ("operator", "approver"),
    "train": ("designer", "operator"),
    "change data": ("designer", "operator"),
    "roll back": ("operator",),
    "promote a rollout": ("operator", "approver"),
    "declare a model": ("operator",),
    "approve": ("approver",),
    "lift a quarantine": ("approver",),
    "take data down": ("approver",),
}
ROLES = ("viewer", *dict.fromkeys(role for roles in PERMISSIONS.values() for role in roles))


def checked(roles: Iterable[str]) -> list[str]:
    """The roles, each once. UserError for one that there is not."""
    found = list(dict.fromkeys(roles))
    for role in found:
        if role not in ROLES:
            raise UserError(f"there is no role {role!r}; roles are {', '.join(ROLES)}")
    return found


def may(roles: Iterable[str], action: str) -> bool:
    """Whether somebody with these roles may do `action`, a key of PERMISSIONS."""
    return not {*roles}.isdisjoint(PERMISSIONS[action])
