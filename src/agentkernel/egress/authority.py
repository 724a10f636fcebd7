"""Certificates of the hosts that a sandbox's secrets are bound to, by an authority that is made for that sandbox alone.

The authority's key signs them and is forgotten: nobody can ever make another one. It may vouch for those hosts only (Name Constraints), so
that whoever trusts it by mistake is exposed to nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = datetime.timedelta(days=30)
_EARLIER = datetime.timedelta(hours=1)  # clocks inside and outside are one, but what was restored from a snapshot may lag
_NAME_CHARACTERS = 64  # of a common name (X.520)


class Authority(NamedTuple):
    """What is left of it: its certificate, and the hosts' certificates with their keys. All PEM."""

    certificate: str
    leaves: dict[str, str]


def make_authority(hosts: Sequence[str], *, now: datetime.datetime | None = None) -> Authority:
    """An authority and one certificate for each host (A-labels in lower case, no port), valid from an hour ago for thirty days."""
    begins = (now or datetime.datetime.now(datetime.UTC)) - _EARLIER
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agentkernel sandbox authority")])
    certificate = (
        _certificate(name, name, key.public_key(), begins)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(host) for host in hosts], None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), {host: _leaf(host, certificate, key, begins) for host in hosts})


def _leaf(host: str, issuer: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey, begins: datetime.datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:_NAME_CHARACTERS])])
    certificate = (
        _certificate(subject, issuer.subject, key.public_key(), begins)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return _pem(certificate) + str(secret, "ascii")


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + LIFE)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return str(certificate.public_bytes(serialization.Encoding.PEM), "ascii")
