"""An interface driver for Neutron's `interface_driver`: a veth pair, connected to the test's bridge if there is one."""

from __future__ import annotations

import os

from neutron.agent.linux import ip_lib
from neutron.agent.linux.interface import LinuxInterfaceDriver
from neutron_lib import constants


class Veth(LinuxInterfaceDriver):
    DEV_NAME_PREFIX = constants.TAP_DEVICE_PREFIX

    def plug_new(
        self, network_id, port_id, device_name, mac_address, bridge=None, namespace=None, prefix=None, mtu=None
    ):
        lan = f"lan-{network_id[:8]}"
        far = f"far{port_id[:8]}"
        here, there = ip_lib.IPWrapper().add_veth(device_name, far)
        here.link.set_netns(namespace)
        here.link.set_address(mac_address)
        here.link.set_up()
        # A network without clients: both ends in a separate namespace.
        there.link.set_netns(lan if os.path.exists(f"/run/netns/{lan}") else namespace)
        there.link.set_up()

    def unplug(self, device_name, bridge=None, namespace=None, prefix=None):
        ip_lib.IPDevice(device_name, namespace=namespace).link.delete()
