#!/usr/bin/python
# Copyright: the sidespawn authors
# Apache License 2.0 (see LICENSE-2.0 at https://www.apache.org/licenses/)
"""Take an engine's socket and privileges from a Quadlet unit that something else writes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: quadlet_drop_in
short_description: Take an engine's socket and privileges from a Quadlet unit that something else writes
version_added: 0.1.0
description:
  - Writes a drop-in beside the unit, which stays as it is. What wrote the unit may write it again.
  - The drop-in has the unit's volumes and arguments without an engine's socket, its storage and the wrappers before
    sidespawn, and adds sidespawn's mounts.
  - Quadlet's generator on the host is then asked for the command that starts the container. Nothing is written unless
    that is as it should be.
  - Restarts nothing. RV(restart) tells whether that is needed.
author: The sidespawn authors (!UNKNOWN)
options:
  name:
    description: The unit's name, without C(.container).
    type: str
    required: true
  directory:
    description: Where the unit is.
    type: path
    default: /etc/containers/systemd
  state:
    description: V(absent) removes the drop-in.
    type: str
    choices: [present, absent]
    default: present
  volumes:
    description: The mounts of the agent's services, as the filter P(sidespawn.host.volumes#filter) writes them.
    type: list
    elements: str
    default: []
  units:
    description: The units to start before, C(sidespawn-spool@SERVICE.service) of each service.
    type: list
    elements: str
    default: []
  options:
    description: More options of C(podman run), for O(unprivileged).
    type: list
    elements: str
    default: []
  unprivileged:
    description:
      - Take C(--privileged) out, and give only O(capabilities).
      - The container then starts with a command that makes the network's sysctls writable.
    type: bool
    default: true
  capabilities:
    description: With O(unprivileged), all that the agent has.
    type: list
    elements: str
    default: [NET_ADMIN, SYS_ADMIN]
  command:
    description:
      - With O(unprivileged), what the container runs. C(kolla_start) if left out.
      - Required if the unit has a command already.
    type: str
  generator:
    description: Quadlet's generator, if it is not where podman's packages have it.
    type: path
notes:
  - The drop-in has what the unit says at the moment. Run the module again after the unit has changed.
attributes:
  check_mode:
    description: Tells exactly what the run would change.
    support: full
  diff_mode:
    description: Shows the drop-in before and after.
    support: full
"""

EXAMPLES = r"""
- name: Start EDPM's DHCP agent without privileges
  sidespawn.host.quadlet_drop_in:
    name: edpm_neutron_dhcp_agent
    volumes: "{{ service_results | sidespawn.host.volumes('edpm') }}"
    units: [sidespawn-spool@neutron-dhcp-dnsmasq.service]
"""

RETURN = r"""
path:
  description: The drop-in.
  returned: always
  type: str
restart:
  description:
    - Whether systemd must be reloaded and the unit restarted until the container is as the unit and the drop-in say.
      Stays true until that has been done, no matter which run has changed the drop-in.
  returned: always
  type: bool
starts:
  description: The command that starts the container, as the generator on the host made it.
  returned: O(state=present)
  type: list
  elements: str
"""

import json
import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sidespawn.host.plugins.module_utils.quadlet import (
    LABEL,
    UnitError,
    drop_in,
    faults,
    label_in,
    label_of,
    started,
)

FILE = "50-sidespawn.conf"
# Of Debian, Fedora and Enterprise Linux; others have only the link for systemd.
GENERATORS = ("/usr/libexec/podman/quadlet", "/usr/lib/systemd/system-generators/podman-system-generator")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "default": "/etc/containers/systemd"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "volumes": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "options": {"type": "list", "elements": "str", "default": []},
            "unprivileged": {"type": "bool", "default": True},
            "capabilities": {"type": "list", "elements": "str", "default": ["NET_ADMIN", "SYS_ADMIN"]},
            "command": {"type": "str"},
            "generator": {"type": "path"},
        },
        supports_check_mode=True,
    )
    unit = os.path.join(module.params["directory"], f"{module.params['name']}.container")
    path = os.path.join(f"{unit}.d", FILE)
    before = read(path) if os.path.exists(path) else ""
    after = ""
    more: dict[str, list[str]] = {}
    if module.params["state"] == "present":
        after, more = wanted(module, unit)
    label = label_of(after)
    restart = before != after or any(each != label for each in labels(module))
    if not module.check_mode and before != after:
        change(module, path, after)
    module.exit_json(
        changed=before != after,
        path=path,
        restart=restart,
        diff={"before": before, "after": after, "before_header": path, "after_header": path},
        **more,
    )


def wanted(module: AnsibleModule, unit: str) -> tuple[str, dict[str, list[str]]]:
    given = module.params
    if not (given["volumes"] and given["units"]):
        module.fail_json(msg="an agent needs the volumes and units of its services; nothing was written")
    if not os.path.exists(unit):
        module.fail_json(msg=f"there is no {unit}: run this after what writes it; nothing was written")
    others = {name: read(os.path.join(f"{unit}.d", name)) for name in confs(f"{unit}.d")}
    earlier = [read(unit), *(others[name] for name in sorted(others) if name < FILE)]
    words: list[str] = []
    text = ""
    try:
        text = drop_in(
            earlier,
            volumes=given["volumes"],
            units=given["units"],
            options=given["options"],
            capabilities=given["capabilities"],
            unprivileged=given["unprivileged"],
            command=given["command"],
        )
        words = generated(module, read(unit), others | {FILE: text})
        found = faults(words, volumes=given["volumes"], unprivileged=given["unprivileged"])
    except (UnitError, ValueError) as error:
        found = [str(error)]
    if found:
        module.fail_json(msg=f"{unit}: {'; '.join(found)}; nothing was written", starts=words)
    return text, {"starts": words}


def generated(module: AnsibleModule, unit: str, drop_ins: dict[str, str]) -> list[str]:
    """Return what the generator on this host makes of them, away from systemd."""
    name = module.params["name"]
    place = os.path.join(module.tmpdir, "quadlet")
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(os.path.join(place, f"{name}.container.d"))
    write(os.path.join(place, f"{name}.container"), unit)
    for each, text in drop_ins.items():
        write(os.path.join(place, f"{name}.container.d", each), text)
    program = module.params["generator"] or next(filter(os.path.exists, GENERATORS), None)
    if program is None:
        module.fail_json(msg=f"Quadlet is not on this host: there is no {GENERATORS[0]}; nothing was written")
    code, out, err = module.run_command([program, "--dryrun"], environ_update={"QUADLET_UNIT_DIRS": place})
    if code:
        module.fail_json(msg=f"{program} refuses the unit: {err.strip()}; nothing was written", rc=code)
    words: list[str] = started(out, name)
    return words


def labels(module: AnsibleModule) -> list[str]:
    """Return the drop-in's label in the unit that systemd has loaded, and in the container that this unit has started.

    An empty one says that there is no drop-in.
    """
    service = f"{module.params['name']}.service"
    code, out, _err = module.run_command([module.get_bin_path("systemctl", required=True), "cat", service])
    if code != 0:
        return [""]  # it is not loaded
    podman = module.get_bin_path("podman", required=True)
    listing = ["ps", f"--filter=label=PODMAN_SYSTEMD_UNIT={service}", "--format=json"]
    code, listed, err = module.run_command([podman, *listing])
    if code != 0:
        module.fail_json(msg=f"podman does not say what {service} runs: {err.strip()}")
    # Quadlet's output, which systemd reads when it is reloaded.
    return [label_in(out), *((each.get("Labels") or {}).get(LABEL, "") for each in json.loads(listed or "[]") or ())]


def confs(directory: str) -> list[str]:
    if not os.path.isdir(directory):
        return []
    return [each for each in os.listdir(directory) if each.endswith(".conf") and each != FILE]


def change(module: AnsibleModule, path: str, text: str) -> None:
    if not text:
        os.unlink(path)
        if not os.listdir(os.path.dirname(path)):
            os.rmdir(os.path.dirname(path))
        return
    if not os.path.isdir(os.path.dirname(path)):
        os.mkdir(os.path.dirname(path), 0o755)
    draft = os.path.join(module.tmpdir, FILE)
    write(draft, text)
    module.atomic_move(draft, path)
    os.chmod(path, 0o644)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
