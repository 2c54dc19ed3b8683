"""Begins a session with a Dispatch server and starts a workflow in it.

    pip install cryptography
    python client.py http://127.0.0.1:8080 TENANT_ID API_KEY WORKFLOW ['{"id": "o-7"}']

Written from docs/workflows.md alone. The private key of the tenant is read from the file in DISPATCH_PRIVATE_KEY (32 bytes in base64); without it a
key is drawn, which is good for a tenant that has none yet.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def call(method, url, body=None, headers=None):
    """Answers (status, body)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("content-type", "application/json")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, read(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, read(refused.read())


def read(text):
    """A body as JSON, or as the text that it is."""
    try:
        return json.loads(text or b"null")
    except ValueError:
        return text.decode()


def derive(secret, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def b64(data):
    return base64.b64encode(data).decode()


def private_key():
    path = os.environ.get("DISPATCH_PRIVATE_KEY")
    if path is None:
        return os.urandom(32)
    with open(path, encoding="ascii") as file:
        return base64.b64decode(file.read().strip())


def open_session(server, tenant, api_key, private):
    """The token of a new session."""
    temporary = X25519PrivateKey.generate()
    nonce = os.urandom(16)
    status, begun = call("POST", f"{server}/api/session", {
        "tenant_id": tenant,
        "api_key": api_key,
        "client_public_key": b64(temporary.public_key().public_bytes_raw()),
        "nonce": b64(nonce),
    })
    if status != 200:
        raise SystemExit(f"the handshake was refused: {begun}")
    theirs = X25519PublicKey.from_public_bytes(base64.b64decode(begun["server_public_key"]))
    salt = nonce + base64.b64decode(begun["nonce"])
    session_key = derive(temporary.exchange(theirs), salt, b"dispatched/session/v1" + tenant.encode())
    wrapping_key = derive(private, tenant.encode(), b"dispatched/wrap/v1")
    seal_nonce = os.urandom(12)
    sealed = AESGCM(session_key).encrypt(seal_nonce, wrapping_key, begun["handshake_id"].encode())
    status, started = call("POST", f"{server}/api/session/confirm", {
        "handshake_id": begun["handshake_id"],
        "sealed_key": {"nonce": b64(seal_nonce), "ciphertext": b64(sealed)},
    })
    if status != 200:
        raise SystemExit(f"the handshake failed: {started}")
    return started["session"]


def main():
    if len(sys.argv) not in (5, 6):
        raise SystemExit(__doc__)
    server, tenant, api_key, workflow = sys.argv[1:5]
    body = json.loads(sys.argv[5]) if len(sys.argv) == 6 else {}
    session = open_session(server.rstrip("/"), tenant, api_key, private_key())
    status, answer = call("POST", f"{server}/workflows/{workflow}", body, {"dispatched-session": session})
    print(json.dumps({"status": status, "answer": answer}))
    call("DELETE", f"{server}/api/session", headers={"dispatched-session": session})
    raise SystemExit(0 if status < 300 else 1)


if __name__ == "__main__":
    main()
