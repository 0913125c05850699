"""The doors over TLS: what is served, and which certificates and keys are refused before it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
from tests.http.certificates import Files, make_certificate, openssl
from tests.http.door import HEALTH, FakeService, open_door, run

from takeoff.errors import SettingsError
from takeoff.http.tls import tls_context
from takeoff.settings import Settings, load_settings


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_certificate(tmp_path_factory.mktemp("certificates"))


def settings(files: Files) -> Settings:
    return Settings(tls_cert=files.certificate, tls_key=files.key)


def test_a_client_that_knows_the_certificate_is_served_whole_and_streamed(files: Files) -> None:
    trusting = ssl.create_default_context(cafile=str(files.certificate))

    async def work() -> None:
        async with open_door(tls_cert=files.certificate, tls_key=files.key) as door:
            for host in ("localhost", "127.0.0.1"):
                async with httpx.AsyncClient(
                    verify=trusting, base_url=f"https://{host}:{door.port}"
                ) as client:
                    assert (await client.get("/healthz")).json() == {"status": "live"}
                    whole = await client.post("/generate", json={"text": "a"})
                    assert whole.json() == {"status": "success", "message": "Hello wörld!"}
                    async with client.stream("POST", "/generate_stream", json={"text": "a"}) as answer:
                        pieces = [piece async for piece in answer.aiter_text()]
                    assert "".join(pieces) == "Hello wörld!"
                    assert answer.http_version == "HTTP/1.1"

    run(work())


def test_a_page_of_ours_may_post_over_tls_and_others_not(files: Files) -> None:
    trusting = ssl.create_default_context(cafile=str(files.certificate))

    async def work() -> list[int]:
        async with open_door(tls_cert=files.certificate, tls_key=files.key) as door:
            url = f"https://localhost:{door.port}"
            async with httpx.AsyncClient(verify=trusting, base_url=url) as client:
                asked = [
                    await client.post("/generate", json={"text": "a"}, headers={"origin": origin})
                    for origin in (url, "https://evil.example")
                ]
                return [answer.status_code for answer in asked]

    assert run(work()) == [200, 403]


def test_who_does_not_know_the_certificate_or_speaks_plain_http_or_old_tls_gets_nothing(files: Files) -> None:
    service = FakeService()
    old = ssl.create_default_context(cafile=str(files.certificate))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    async def work() -> None:
        async with open_door(service, tls_cert=files.certificate, tls_key=files.key) as door:
            url = f"https://localhost:{door.port}/generate"
            for verify in (True, old):
                async with httpx.AsyncClient(verify=verify) as client:
                    with pytest.raises(httpx.ConnectError):
                        await client.post(url, json={"text": "a"})
            assert b"HTTP/1.1 200" not in await door.exchange(HEALTH)

    run(work())
    assert service.requests == []


def test_a_handshake_that_is_not_ended_is_closed_after_the_time_of_a_header(files: Files) -> None:
    """Until it ends a connection is not counted, and uvicorn would wait for a minute."""

    async def work() -> None:
        options = {"tls_cert": files.certificate, "tls_key": files.key, "header_timeout_s": 0.3}
        async with open_door(**options) as door:
            started = asyncio.get_running_loop().time()
            silent = [await door.connect(data) for data in (b"", b"\x16\x03\x01\x02\x00\x01")]
            for client in silent:
                assert await client.rest() == b""
            assert 0.25 < asyncio.get_running_loop().time() - started < 5.0

    run(work())


def test_a_tls_connection_that_sends_no_header_is_closed_too(files: Files) -> None:
    trusting = ssl.create_default_context(cafile=str(files.certificate))

    async def work() -> bytes:
        options = {"tls_cert": files.certificate, "tls_key": files.key, "header_timeout_s": 0.3}
        async with open_door(**options) as door:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", door.port, ssl=trusting, server_hostname="localhost"
            )
            writer.write(b"GET / HTTP/1.1\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    assert run(work()).startswith(b"HTTP/1.1 408")


def refusal(files: Files) -> SettingsError:
    with pytest.raises(SettingsError) as refused:
        tls_context(settings(files))
    return refused.value


def test_files_that_are_missing_or_can_not_be_read_are_told_by_name(files: Files, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    for wrong, param in (
        (Files(missing, files.key), "tls_cert"),
        (Files(files.certificate, missing), "tls_key"),
    ):
        refused = refusal(wrong)
        assert (refused.message, refused.param) == (
            f"{missing} can't be read: No such file or directory",
            param,
        )
    assert refusal(Files(tmp_path, files.key)).message == f"{tmp_path} can't be read: Is a directory"


def test_a_key_of_another_certificate_is_refused(files: Files, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other")
    refused = refusal(Files(files.certificate, other.key))
    assert refused.message.endswith("can't be used together: the key is not the certificate's")


def test_what_is_no_pem_is_refused(files: Files, tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("-----BEGIN NOTHING-----\n")
    for wrong in (Files(text, files.key), Files(files.certificate, text), Files(files.key, files.key)):
        assert "can't be used together: " in refusal(wrong).message


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(
    files: Files, tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.key"
    openssl("pkey", "-in", str(files.key), "-aes256", "-passout", "pass:secret", "-out", str(encrypted))
    refused = refusal(Files(files.certificate, encrypted))
    assert refused.message == f"{encrypted} is encrypted with a password"
    assert "openssl pkey" in (refused.hint or "")


@pytest.mark.parametrize("name", ["tls_cert", "tls_key"])
def test_one_of_the_two_alone_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="belong together"):
        load_settings({name: "file.pem"}, {})


def test_without_them_the_doors_speak_plain_http() -> None:
    assert tls_context(Settings()) is None
