"""The gateway beyond loopback: encrypted, and only with the right certificate."""

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from adire_assets.config.fleet import GatewayConfig, TlsConfig
from tests.support.running_gateway import MODEL, SOUND, RunningGateway, running_gateway

TLS = TlsConfig(certificate="tls/certificate.pem", private_key="tls/key.pem")


def _certify_itself(root: Path) -> None:
    """A key and a certificate for 127.0.0.1 that it has signed itself, where TLS names them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (root / "tls").mkdir()
    pem = serialization.Encoding.PEM
    (root / TLS.certificate).write_bytes(certificate.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (root / TLS.private_key).write_bytes(key.private_bytes(pem, *plain))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    root = tmp_path_factory.mktemp("tls")
    _certify_itself(root)
    with running_gateway(root, tls=TLS) as made:
        made.publish({1: 100})
        yield made


def _certificate(opened: RunningGateway) -> Path:
    return opened.gateway.project.root / TLS.certificate


def test_who_trusts_the_certificate_gets_answers(opened: RunningGateway):
    plain = opened.channel
    roots = grpc.ssl_channel_credentials(_certificate(opened).read_bytes())
    with grpc.secure_channel(opened.gateway.address, roots) as opened.channel:
        assert opened.ask() == 1
    opened.channel = plain
    trust = ssl.create_default_context(cafile=str(_certificate(opened)))
    path = f"/v2/models/{MODEL}/infer"
    assert opened.http(path, SOUND, trust=trust) == (200, {"model_version": "1"})


def test_who_does_not_speak_tls_gets_none(opened: RunningGateway):
    assert opened.refusal()[0] == "UNAVAILABLE"
    with pytest.raises(OSError):
        opened.http("/v2/health/live")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        opened.http("/v2/health/live", trust=ssl.create_default_context())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_tls_before_1_2_is_refused(opened: RunningGateway, version: ssl.TLSVersion):
    client = ssl.create_default_context(cafile=str(_certificate(opened)))
    client.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this side refuses to speak 1.1
    client.minimum_version = client.maximum_version = version
    host, _, port = opened.gateway.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        if version == ssl.TLSVersion.TLSv1_2:
            with client.wrap_socket(connection, server_hostname=host) as secured:
                assert secured.version() == "TLSv1.2"
        else:
            with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
                client.wrap_socket(connection, server_hostname=host)


def test_a_gateway_beyond_loopback_needs_tls_and_tokens():
    with pytest.raises(ValidationError, match=r"listens on 0\.0\.0\.0 needs tls and tokens"):
        GatewayConfig(host="0.0.0.0")
    with pytest.raises(ValidationError, match="needs tokens; without them, host must be 127"):
        GatewayConfig(host="0.0.0.0", tls=TLS)
