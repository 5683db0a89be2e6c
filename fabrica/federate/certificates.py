"""Certificates for one server and its sites (the extra `clinic`)."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..deliver.files import write_private

AUTHORITY, CERTIFICATE, KEY = "authority.pem", "server.pem", "server.key"


def write_certificates(folder: Path, host: str, days: int) -> None:
    """authority.pem, server.pem and server.key (its owner's alone); the authority's own key is not kept."""
    now = datetime.now(UTC)
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fabrica federation")])

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(minutes=5))
        return made.not_valid_after(now + timedelta(days=days))

    authority = begun(issuer, root.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    server = begun(subject, own.public_key()).add_extension(x509.SubjectAlternativeName(names), False)
    server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    pem = serialization.Encoding.PEM
    (folder / AUTHORITY).write_bytes(authority.sign(root, hashes.SHA256()).public_bytes(pem))
    (folder / CERTIFICATE).write_bytes(server.sign(root, hashes.SHA256()).public_bytes(pem))
    secret = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / KEY, secret)
