"""Formats of texts, as a JSON schema names them.

llguidance's own are passed on by name. Where those take more than a validator does, such as the 29th
of February of any year, a pattern stands instead.
"""

from __future__ import annotations

_FOURTH_YEARS = "0[48]|[2468][048]|[13579][26]"  # 04, 08, ... 96
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # 0001 to 9999
_LEAP_YEAR = f"(?:[0-9]{{2}}(?:{_FOURTH_YEARS})|(?:{_FOURTH_YEARS})00)"
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
# No second 60, which few parsers take, and fractions that end.
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL = "[A-Za-z0-9](?:-?[A-Za-z0-9]){0,17}"  # 35 characters; seven of them stay under the 253 of a name

PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL}){{0,6}}$",
}
PASSED_ON = frozenset({"duration", "email", "ipv4", "ipv6", "uuid", "uri"})
OF_NUMBERS = frozenset({"int32", "int64", "float", "double"})  # OpenAPI's
