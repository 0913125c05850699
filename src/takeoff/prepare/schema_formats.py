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

_URI_TEXT = r"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-F]{2})"
_POINTER = r"(?:/(?:[^~/\x00-\x1f]|~[01])*)*"
# The last letters of a group that is not full hold no bits that are lost.
_BASE64 = r"(?:[{0}]{{4}})*(?:[{0}][AQgw]==|[{0}]{{2}}[AEIMQUYcgkosw048]=)?"
# Few expressions, and such as every dialect takes.
_REGEX = r"\^?(?:(?:[A-Za-z0-9 _]|\\[dws]|\[[a-z0-9]{1,8}\]|\.)[*+?]?)*\$?"

PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL}){{0,6}}$",
    "idn-hostname": rf"^{_LABEL}(?:\.{_LABEL}){{0,6}}$",
    "uri-reference": rf"^/?{_URI_TEXT}*(?:/{_URI_TEXT}+)*(?:\?{_URI_TEXT}*)?(?:#{_URI_TEXT}*)?$",
    "iri-reference": rf"^/?{_URI_TEXT}*(?:/{_URI_TEXT}+)*(?:\?{_URI_TEXT}*)?(?:#{_URI_TEXT}*)?$",
    "uri-template": rf"^/?(?:{_URI_TEXT}|/|\{{[A-Za-z_][A-Za-z0-9_]*\}})*$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})$",
    "regex": f"^{_REGEX}$",
    "byte": f"^{_BASE64.format('A-Za-z0-9+/')}$",  # OpenAPI's
    "base64": f"^{_BASE64.format('A-Za-z0-9+/')}$",  # pydantic's
    "base64url": f"^{_BASE64.format('A-Za-z0-9_-')}$",
}
PASSED_ON = {name: name for name in ("duration", "email", "ipv4", "ipv6", "uuid", "uri")} | {
    "idn-email": "email",
    "iri": "uri",
    "ipvanyaddress": "ipv4",  # pydantic's, and the next two
    "ipvanyinterface": "ipv4",
    "ipvanynetwork": "ipv4",
}
OF_NUMBERS = frozenset({"int32", "int64", "float", "double"})  # OpenAPI's
# They say what a text is for, and nothing of how it is written.
OF_ANY_TEXT = frozenset({"password", "binary", "path", "file-path", "directory-path"})
