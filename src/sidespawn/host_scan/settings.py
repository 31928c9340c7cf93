"""Finds what deployers' configuration files enable: wrappers of Kolla-Ansible and TripleO, and additional sockets.

A setting counts if its value is true, in any spelling of YAML, Ansible and Hiera. Paths, images and comments do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sidespawn.host_scan.findings import Deployment, Finding, Kind, at
from sidespawn.host_scan.texts import Row, files
from sidespawn.system.places import RUN

HIERADATA = ("etc/puppet/hieradata/**/*",)
KOLLA = ("etc/kolla/globals.yml", "etc/kolla/globals.d/*.yml", "etc/kolla/globals.d/*.yaml")
# Environment files, on the machine from which TripleO is deployed.
TEMPLATES = tuple(
    f"{place}{depth}*.{suffix}"
    for place in ("home/stack/", "root/")
    for depth in ("", "*/", "*/environments/")
    for suffix in ("yaml", "yml")
)
SOCKETS = "etc/sysconfig/docker", "etc/default/docker"
LISTENS = re.compile(r"(?:-H|--host)[=\s]+unix://(?!(?:/var)?/run/docker\.sock(?![\w.-]))[^\s'\"]+")
NAME = (
    r"[\w:]*(?:dhcp|l3|ovn_metadata)_agent_wrappers::enable\w*"
    r"|NeutronEnable\w*Wrapper|OVNEnable\w*Wrapper|neutron_agents_wrappers"
)
ENABLES = re.compile(
    rf"""(?<![\w:])["']?({NAME})["']?\s*[:=]\s*(["']?)(?:true|yes|on|y|t|1)\2\s*(?=$|[,}}\]])""", re.IGNORECASE
)
ADDITIONAL = re.compile(r"""\w*additional_?sockets["']?\s*:(?!\s*(?:null|~|""|'')\s*,?\s*$)""", re.IGNORECASE)
COMMENT = re.compile(r"(^|\s)#.*")


def look(root: Path) -> Iterator[Finding]:
    for path, rows in files(root, HIERADATA):
        yield from enabled(path, rows, Deployment.TRIPLEO)
    for path, rows in files(root, TEMPLATES):
        lines = list(rows)
        if any(line.startswith(("parameter_defaults:", "parameters:")) for _, line in lines):
            yield from enabled(path, iter(lines), Deployment.TRIPLEO)
    for path, rows in files(root, SOCKETS):
        for number, line in rows:
            if not line.lstrip().startswith("#") and (found := LISTENS.search(line)):
                yield at(path, number, Kind.DEPLOYER_SETTING, found[0], Deployment.TRIPLEO)
    yield from of_kolla(root)


def enabled(path: Path, rows: Iterator[Row], deployment: Deployment) -> Iterator[Finding]:
    for number, line in rows:
        bare = COMMENT.sub("", line)
        if found := ENABLES.search(bare):
            yield at(path, number, Kind.DEPLOYER_SETTING, found[1], deployment)
        elif found := ADDITIONAL.search(bare):
            yield at(path, number, Kind.DEPLOYER_SETTING, found[0].strip(":\"' "), deployment)


def of_kolla(root: Path) -> Iterator[Finding]:
    """Yield Kolla-Ansible's setting unless its files also mount sidespawn's wrappers, which need it.

    A file in globals.d counts after globals.yml.
    """
    found, served = [], False
    for path in KOLLA:
        for file, rows in files(root, (path,)):
            for number, line in rows:
                bare = COMMENT.sub("", line)
                served = served or f"{RUN}/" in bare
                if re.match(r"""["']?neutron_agents_wrappers["']?\s*:""", bare):
                    on = ENABLES.search(bare)
                    found = [at(file, number, Kind.DEPLOYER_SETTING, on[1], Deployment.KOLLA)] if on else []
    yield from () if served else found
