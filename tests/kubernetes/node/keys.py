"""Keys of a cluster for tests, and the files with which its parts reach the API server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.lab.networks import command

DAYS = 30


@dataclass(frozen=True)
class Keys:
    """All are made at once, and signed by one authority."""

    home: Path
    node: str
    api: str

    def __post_init__(self) -> None:
        self.home.mkdir(mode=0o700)
        self.make("authority", "/CN=test-authority")
        self.make("api", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.make("admin", "/O=system:masters/CN=admin")
        self.make("node", f"/O=system:nodes/CN=system:node:{self.node}")
        self.make("issuer", "/CN=issuer")

    @property
    def authority(self) -> Path:
        return self.pair("authority")[0]

    def pair(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.home / f"{name}.crt", self.home / f"{name}.key"

    def make(self, name: str, subject: str, *extensions: str) -> None:
        certificate, key = self.pair(name)
        signer = self.pair("authority")
        by = () if name == "authority" else ("-CA", str(signer[0]), "-CAkey", str(signer[1]))
        added = [option for each in extensions for option in ("-addext", each)]
        # The API server signs tokens with RSA only.
        kind = ("rsa:2048",) if name == "issuer" else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        call = ("openssl", "req", "-x509", "-nodes", "-days", str(DAYS), "-subj", subject, "-newkey", *kind)
        command(*call, *added, *by, "-keyout", str(key), "-out", str(certificate))

    def configuration(self, user: str) -> Path:
        """A kubeconfig."""
        certificate, key = self.pair(user)
        path = self.home / f"{user}.json"
        server = {"server": self.api, "certificate-authority": str(self.authority)}
        access = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": user, "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(access))
        return path
