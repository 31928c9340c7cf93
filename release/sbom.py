"""Writes the bill of materials of a release, in CycloneDX's JSON: published files, and bundled or needed packages.

The rpms bundle the packages that are listed with a version, and depend on those without. The Debian package and the
wheel depend on the same names, and use the host's versions.
"""

from __future__ import annotations

import email
import hashlib
import re
import uuid
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from release.bundle import Bundle
from release.source import Source

_PUBLISHER = uuid.UUID("5f4b5c3e-6a1d-4f0e-9c54-3f1f3b0d5a70")  # of this project's serial numbers
# What classifiers call a licence, where a package does not use SPDX's names yet.
_LICENCES = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}
# Packages that every distribution has, with their licences.
_OF_THE_HOST = {"pyyaml": "MIT"}


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One that the rpms bring along."""

    path: Path
    metadata: Message

    @property
    def name(self) -> str:
        return normalised(self.metadata["Name"])

    @property
    def version(self) -> str:
        return str(self.metadata["Version"])

    @property
    def licence(self) -> str:
        stated = self.metadata["License-Expression"]
        classified = (_LICENCES.get(each) for each in self.metadata.get_all("Classifier", []))
        return str(stated or next(filter(None, classified)))

    @property
    def needs(self) -> set[str]:
        """Return them by name, without those that only extras or other Pythons need."""
        required = (each.partition(";") for each in self.metadata.get_all("Requires-Dist", []))
        return {normalised(re.split(r"[^\w.-]", words)[0]) for words, _, marker in required if not marker}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_wheel(path: Path) -> Wheel:
    with zipfile.ZipFile(path) as archive:
        (name,) = (each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        return Wheel(path=path, metadata=email.message_from_bytes(archive.read(name)))


def bill(source: Source, published: list[Path], bundle: Bundle, own: Wheel) -> str:
    """`own` is the wheel of this release. The same files give the same text."""
    licences = LicenseFactory()
    whole = Component(
        name="sidespawn", version=source.version, type=ComponentType.APPLICATION,
        licenses=[licences.make_from_string("Apache-2.0")], purl=PackageURL("pypi", None, "sidespawn", source.version),
        bom_ref="sidespawn",
    )  # fmt: skip
    wheels = [read_wheel(path) for path in bundle.wheels]
    components = {
        each.name: Component(
            name=each.name, version=each.version, type=ComponentType.LIBRARY,
            licenses=[licences.make_from_string(each.licence)], hashes=[digest(each.path)],
            purl=PackageURL("pypi", None, each.name, each.version), bom_ref=each.name,
            properties=[Property(name="sidespawn:use", value="of the command line only; in the rpms")],
        )
        for each in wheels
    }  # fmt: skip
    components |= {
        name: Component(
            name=name, type=ComponentType.LIBRARY, licenses=[licences.make_from_string(_OF_THE_HOST[name])],
            purl=PackageURL("pypi", None, name), bom_ref=name,
            properties=[Property(name="sidespawn:use", value="of the command line only; the host's")],
        )
        for name in sorted(own.needs - set(components))
    }  # fmt: skip
    files = [
        Component(name=path.name, type=ComponentType.FILE, hashes=[digest(path)], bom_ref=f"file:{path.name}")
        for path in published
    ]
    document = Bom(
        components=[*components.values(), *files],
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(source.epoch, UTC)),
    )
    document.serial_number = uuid.uuid5(_PUBLISHER, " ".join(f"{path.name} {sha256(path)}" for path in published))
    document.register_dependency(whole, [components[name] for name in sorted(own.needs)])
    for each in wheels:
        needed = [components[name] for name in sorted(each.needs) if name in components]
        document.register_dependency(components[each.name], needed)
    return JsonV1Dot6(document).output_as_string(indent=2) + "\n"


def digest(path: Path) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256(path))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
