"""Who may look: the token, the cookie that a browser gets for it, and the names under which a view may be asked for.

The token is 32 random bytes in a file of mode 0600, so whoever may read the node's directory may look. A browser shows it once,
in a form or in the address, and gets a cookie, which is made from the token but isn't it: HttpOnly, so no script reads it, and
SameSite=Strict, so no other site's page can make use of it. A page of another site that lets its own name point here (DNS
rebinding) is told apart by the Host header. Everything here is pure but for :func:`token_from`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from copycat.errors import KeyFileInvalid
from copycat.security.files import read_secret, write_new

TOKEN_BYTES = 32
TOKEN_CHARACTERS_MIN = 16
_TOKEN = re.compile(r"[A-Za-z0-9_\-.~+/=]{16,512}")


def new_token() -> str:
    """A fresh token, of characters that need no quoting in an address."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_from(path: Path) -> str:
    """The token in a file, which is made if it isn't there.

    Raises :class:`~copycat.errors.KeyFileInvalid` if it can't be read or made, holds no token, or others could read it.
    """
    if not path.exists():
        try:
            write_new(path, f"{new_token()}\n".encode(), 0o600)
        except KeyFileInvalid:
            if not path.exists():  # or else another process was faster, and that is fine
                raise
    try:
        token = read_secret(path).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise KeyFileInvalid(
            f"{path} holds no token: one line of {TOKEN_CHARACTERS_MIN} or more letters and digits; remove it to have one made"
        )
    return token


class Guard:
    """Judges requests. ``names``: hosts under which the view may be asked for, besides loopback's."""

    def __init__(self, token: str, names: Iterable[str] = ()) -> None:
        self._token = token.encode()
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}
        self.cookie_value = hmac.new(self._token, b"copycat view cookie", hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def knows(self, token: str) -> bool:
        """Whether this is the token; how long that takes tells nothing of it."""
        return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token)

    def lets_in(self, authorization: str | None, cookies: str | None, cookie_name: str) -> bool:
        """Whether the headers ``Authorization: Bearer TOKEN`` or ``Cookie`` are of somebody who knows the token."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(token.strip()):
            return True
        try:
            morsel = SimpleCookie(cookies or "").get(cookie_name)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self.cookie_value.encode())

    def is_own_name(self, host: str | None) -> bool:
        """Whether a ``Host`` header names this view: not somebody else's name that was made to point here.

        The port doesn't matter: a tunnel may change it, and a name is all that an attacker can choose.
        """
        name = _host_of(host or "")
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _host_of(header: str) -> str | None:
    """The host in a ``Host`` header, without port, brackets and case; None if it is none."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._\-]{1,253}))(?::[0-9]{1,5})?", header)
    if found is None:
        return None
    return (found.group(1) or found.group(2)).lower().rstrip(".")
