"""Certificates, tokens and address lists, made anew for each comparison with the `openssl` command."""

import base64
import hashlib
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from processes import Failure
from scenarios import HOST

ISSUER = "https://issuer.bench.test"
AUDIENCE = "https://api.bench.test"
SCOPE = "api:read"


@dataclass
class Material:
    cert: Path
    key: Path
    # Both in one file, as HAProxy wants it.
    bundle: Path
    # Of backends that speak TLS.
    backend_ca: Path
    backend_cert: Path
    backend_key: Path
    cidrs: Path
    geo: Path
    jwks: Path
    # By algorithm.
    public_keys: dict
    tokens: dict
    forged: dict


def make(folder: Path, algorithms: list, count: int, networks: int) -> Material:
    folder.mkdir(parents=True)
    cert, key = certificate(folder)
    bundle = folder / "server.both.pem"
    bundle.write_text(cert.read_text() + key.read_text())
    backend = issued_certificate(folder)
    cidrs, geo = address_lists(folder, networks)
    keys, public_keys, tokens, forged = [], {}, {}, {}
    for algorithm in algorithms:
        private, public_keys[algorithm], jwk = signing_key(folder, algorithm)
        keys.append(jwk)
        tokens[algorithm] = sign_all(folder, algorithm, private, jwk["kid"], count)
        stranger, _, _ = signing_key(folder, algorithm, name=f"stranger-{algorithm}")
        forged[algorithm] = sign_all(folder, algorithm, stranger, jwk["kid"], 1)[0]
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps({"keys": keys}))
    return Material(cert, key, bundle, *backend, cidrs, geo, jwks, public_keys, tokens, forged)


def openssl(*arguments, data: bytes = b"") -> bytes:
    result = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True)
    if result.returncode:
        raise Failure(f"openssl {arguments[0]} failed: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def certificate(folder: Path):
    """ECDSA P-256, signed by itself: what most sites present today, and the cheapest handshake for every proxy."""
    cert, key = folder / "server.pem", folder / "server.key"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    openssl("req", "-x509", "-new", "-key", key, "-subj", f"/CN={HOST}", "-days", "2", "-out", cert,
            "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1")
    return cert, key


def issued_certificate(folder: Path):
    """The same by a CA of its own: who verifies does not take a CA for a server."""
    ca, ca_key = folder / "backend-ca.pem", folder / "backend-ca.key"
    cert, key, request, names = (folder / f"backend.{end}" for end in ("pem", "key", "csr", "ext"))
    for path in (ca_key, key):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    openssl("req", "-x509", "-new", "-key", ca_key, "-subj", "/CN=bench CA", "-days", "2", "-out", ca)
    openssl("req", "-new", "-key", key, "-subj", f"/CN={HOST}", "-out", request)
    names.write_text(f"subjectAltName=DNS:{HOST}\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names, "-out", cert)
    return ca, cert, key


def address_lists(folder: Path, networks: int):
    """Allowed networks that do not touch each other, so that nothing can merge them, and the one the load comes from."""
    # Every other /24 of 20.0.0.0/6; of more than there are, every other /30.
    bits = 24 if networks <= 100_000 else 30
    chosen = ["127.0.0.0/8"]
    for index in range(networks - 1):
        address = (20 << 24) + (index * 2 << (32 - bits))
        chosen.append(f"{address >> 24}.{(address >> 16) & 255}.{(address >> 8) & 255}.{address & 255}/{bits}")
    cidrs, geo = folder / "allowed.txt", folder / "allowed.geo"
    cidrs.write_text("".join(f"{network}\n" for network in chosen))
    geo.write_text("".join(f"{network} 1;\n" for network in chosen))
    return cidrs, geo


def signing_key(folder: Path, algorithm: str, name: str = ""):
    """A private key, its public half as PEM, and as JWK."""
    name = name or f"token-{algorithm}"
    private, public = folder / f"{name}.key", folder / f"{name}.pub.pem"
    jwk = {"kid": f"bench-{algorithm}", "use": "sig", "alg": algorithm}
    if algorithm == "RS256":
        openssl("genrsa", "-out", private, "2048")
        openssl("rsa", "-in", private, "-pubout", "-out", public)
        modulus = openssl("rsa", "-in", private, "-noout", "-modulus").decode().strip().partition("=")[2]
        jwk |= {"kty": "RSA", "n": b64(bytes.fromhex(modulus)), "e": "AQAB"}
    elif algorithm == "ES256":
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
        openssl("ec", "-in", private, "-pubout", "-out", public)
        # The key's information ends with the point: 0x04, x, y.
        point = openssl("ec", "-in", private, "-pubout", "-outform", "DER")[-64:]
        jwk |= {"kty": "EC", "crv": "P-256", "x": b64(point[:32]), "y": b64(point[32:])}
    else:
        raise Failure(f"no keys are made for {algorithm}")
    return private, public, jwk


def sign_all(folder: Path, algorithm: str, private: Path, kid: str, count: int) -> list:
    """Tokens that differ in `sub` and `jti`, as those of as many callers do."""
    now = int(time.time())
    header = b64(json.dumps({"alg": algorithm, "kid": kid, "typ": "at+jwt"}).encode())

    def one(index: int) -> str:
        claims = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": f"user-{index}", "scope": f"{SCOPE} orders:list",
            "roles": ["orders-user", "reports-user"], "client_id": "bench-client", "iat": now, "exp": now + 86400,
            "jti": hashlib.sha256(f"{kid}{index}".encode()).hexdigest()[:32],
        }
        signed = f"{header}.{b64(json.dumps(claims).encode())}"
        signature = openssl("dgst", "-sha256", "-sign", private, data=signed.encode())
        return f"{signed}.{b64(raw_ecdsa(signature) if algorithm == 'ES256' else signature)}"

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(count)))


def raw_ecdsa(der: bytes) -> bytes:
    """From ASN.1 (SEQUENCE of two INTEGERs, each shorter than 128 bytes) to r and s of 32 bytes each (RFC 7518, 3.4)."""
    numbers, at = [], 2
    for _ in range(2):
        length = der[at + 1]
        numbers.append(int.from_bytes(der[at + 2:at + 2 + length], "big"))
        at += 2 + length
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
