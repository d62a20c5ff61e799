# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take out of a foreign text what looks like a secret, before it is quoted to anybody."""

from __future__ import annotations

import re

HIDDEN = "***"
LOGIN = re.compile(r"(\w://[^\s:/@]*):[^\s/]+@")
NAMED = re.compile(
    r"""(?ix) ( [\w-]* (?: password | passwd | pwd | secret | token | api[_-]?key ) [\w-]* ["']? \s* [=:] \s* )
    (?: "[^"]*" | '[^']*' | [^\s,;&]+ )"""
)
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


def without_secrets(text: str) -> str:
    """The text with `***` for the password in an address, for what stands behind `password=` and its like, and for a
    token in a header. It knows forms, not secrets: what has none of these forms stays."""
    text = LOGIN.sub(rf"\1:{HIDDEN}@", text)
    text = BEARER.sub(rf"\1 {HIDDEN}", text)
    return NAMED.sub(rf"\1{HIDDEN}", text)
