"""Adds settings that docker cannot express to a side container's OCI description before runc reads it.

docker joins no network namespace by path, gives programs no capabilities unless they are root, adds the image's
variables and volumes to the requested ones, and sets network settings in the namespace.  docker.py creates the
container with a random host name, and leaves a record of that name beside the pinned namespace, in a directory that
only root can reach.  This runtime takes the description's settings from the record.  It refuses a container without
such a record: it is for side containers only, and a container that is restarted by hand has lost its namespace.

Runs alone, as root, once per container: it imports little, and only from the standard library.
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sidespawn.system import oci

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it costs every start milliseconds
    from typing import Any


def main(argv: list[str]) -> int:
    path = oci.description_of(argv)
    description = oci.read(path)
    record = oci.find_record(description.get("hostname", ""))
    if record is None:
        return oci.refuse(argv, oci.REFUSAL)
    try:
        adapt(description, oci.read(record))
    except FileNotFoundError:  # the engine gave up just now
        return oci.refuse(argv, oci.REFUSAL)
    oci.write(path, description)
    return 0


def adapt(description: dict[str, Any], record: dict[str, Any]) -> None:
    oci.confine(description, record["environment"], record["capabilities"], record["netns"])
    ours = dict.fromkeys(record["binds"], (*oci.EXECUTABLE, "noexec")) | dict.fromkeys(
        record["scripts"], oci.EXECUTABLE
    )
    # docker added all other bind mounts: /etc/hosts and the like, and the image's volumes.
    kept = [each for each in description["mounts"] if not oci.is_bind(each) or each["source"] in ours]
    for mount in kept:
        mount["options"] = [*mount["options"], *ours.get(mount["source"], ())]
    description["mounts"] = kept
    if "seccomp" in description["linux"]:
        oci.narrow(description["linux"]["seccomp"], as_root=description["process"]["user"]["uid"] == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
