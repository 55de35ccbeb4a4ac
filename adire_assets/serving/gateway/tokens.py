"""Who may ask: ES256 keys for the gateway, and the tokens that they sign.

<folder>/private.pem signs (only its owner may read it; it never leaves the machine that issues
tokens), <folder>/keys.json is the JWKS that the gateway checks with. A new key is added to the
JWKS, so tokens of the ones before stay good until `drop_old`.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError
from adire_assets.core.folders import exclusive_folder
from adire_assets.core.lineage import digest
from adire_assets.core.store import write_json

ALGORITHM = "ES256"


@dataclass(frozen=True)
class Bearer:
    """Who holds a token: `expires` in seconds since the epoch."""

    subject: str
    roles: frozenset[str]
    expires: float


def make_keys(folder: Path, *, drop_old: bool = False) -> str:
    """A new pair of keys, of which the private one signs from now on; returns its key id."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive_folder(folder, f"another process makes keys in {folder} just now; try again"):
        private = ec.generate_private_key(ec.SECP256R1())
        public = _public(private)
        known = [] if drop_old or not _keys(folder).is_file() else read_keys(_keys(folder))
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with written_whole(folder / "private.pem") as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(pem)
                os.fsync(stream.fileno())
            # First the gateway can check the new key, then it signs.
            write_json(_keys(folder), {"keys": [*known, public]})
    return str(public["kid"])


def can_issue(folder: Path) -> bool:
    """Whether the key that signs lies here."""
    return (folder / "private.pem").is_file()


def issue(
    folder: Path,
    subject: str,
    *,
    issuer: str,
    audience: str,
    days: float,
    roles: Sequence[str] = (),
) -> str:
    """A token for `subject` that is good for `days`, with `roles` of the studio's. UserError when
    there is no key."""
    path, make = folder / "private.pem", f"adire auth keys --folder {shlex.quote(str(folder))}"
    if not path.is_file():
        raise UserError(f"{path} does not exist; make a key with `{make}`")
    private = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path} is not an ES256 key; make one with `{make}`")
    now = datetime.now(UTC)
    times = {"iat": now, "exp": now + timedelta(days=days)}
    claims = {"iss": issuer, "aud": audience, "sub": subject, **times}
    if roles:
        claims["roles"] = sorted(roles)
    return jwt.encode(claims, private, ALGORITHM, headers={"kid": _public(private)["kid"]})


def verify(keys: Path, token: str, *, issuer: str, audience: str) -> Bearer:
    """Who holds a token, checked with the JWKS file `keys` as the gateway checks it. UserError when
    it is no good."""
    try:
        known = {key["kid"]: key for key in read_keys(keys)}
        key = known[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token,
            jwt.PyJWK(key, ALGORITHM),
            algorithms=[ALGORITHM],
            issuer=issuer,
            audience=audience,
            options={"require": ["exp", "sub"]},
        )
    except (jwt.PyJWTError, KeyError) as error:
        expired = isinstance(error, jwt.ExpiredSignatureError)
        why = "has expired" if expired else "is not valid"
        raise UserError(f"the token {why}; ask for a new one: `adire auth token NAME`") from None
    roles = claims.get("roles", [])
    wrong = not isinstance(roles, list) or not all(isinstance(role, str) for role in roles)
    return Bearer(claims["sub"], frozenset(() if wrong else roles), float(claims["exp"]))


def _public(private: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The JWK of the public part; its id is its hash."""
    key = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return {**key, "alg": ALGORITHM, "use": "sig", "kid": digest(key)[:16]}


def read_keys(keys: Path) -> list[dict[str, Any]]:
    """The public keys in a JWKS file. UserError when it is none, or is not there."""
    try:
        return list(json.loads(keys.read_text(encoding="utf-8"))["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{keys} is not a JWKS ({error!r}); remove it") from None
    except OSError as error:
        raise UserError(
            f"{keys} cannot be read: {error.strerror}; make keys with `adire auth keys`"
        ) from None


def _keys(folder: Path) -> Path:
    return folder / "keys.json"
