"""TLS of the doors: a certificate and its key, found to be right before anything is served."""

from __future__ import annotations

import ssl
from pathlib import Path

from takeoff.errors import SettingsError
from takeoff.settings import Settings

_REASONS = {
    "KEY_VALUES_MISMATCH": "the key is not the certificate's",
    "NO_START_LINE": "it is no PEM",
}


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What the doors speak TLS with, from version 1.2 on; None: they speak plain HTTP.

    Raises:
        SettingsError: a file is missing, can't be read, or is not what it should be; or they don't match.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    certificate, key = settings.tls_cert.expanduser(), settings.tls_key.expanduser()
    for path, param in ((certificate, "tls_cert"), (key, "tls_key")):
        _check_readable(path, param)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    is_encrypted = False

    def password() -> str:
        """Asked for an encrypted key; without this a server without a terminal would wait for one."""
        nonlocal is_encrypted
        is_encrypted = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError) as exc:
        raise _refusal(certificate, key, exc, is_encrypted=is_encrypted) from exc
    return context


def _check_readable(path: Path, param: str) -> None:
    try:
        path.open("rb").close()
    except OSError as exc:
        raise SettingsError(f"{path} can't be read: {exc.strerror}", param=param) from exc


def _refusal(certificate: Path, key: Path, exc: Exception, *, is_encrypted: bool) -> SettingsError:
    if is_encrypted:
        hint = f"openssl pkey -in {key} -out PLAIN.pem writes it without, for its owner alone"
        return SettingsError(f"{key} is encrypted with a password", param="tls_key", hint=hint)
    reason = getattr(exc, "reason", None)
    why = _REASONS.get(reason or "", reason or str(exc))
    return SettingsError(
        f"{certificate} and {key} can't be used together: {why}",
        param="tls_cert",
        hint="name a certificate in PEM, those of its issuers behind it, and its own key",
    )
