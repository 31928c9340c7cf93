"""oslo.privsep's daemon for an agent that is not root: its children keep the capabilities that it has.

    [privsep]                                             in the agent's configuration file, and in each privsep_...
    helper_command = python3 -m sidespawn.agent.privsep --config-file /etc/neutron/neutron.conf
    capabilities = CAP_SYS_ADMIN, CAP_NET_ADMIN

oslo.privsep reduces its daemon to the capabilities of its context, and clears the inheritable ones. To root that makes
no difference. Of another user the programs that the daemon runs then have none: `ip netns exec` fails. With sudo there
would be none to keep either, and no_new_privs leaves sudo no way. Here the same capabilities become inheritable and
ambient, so that a program has what its daemon has. What the daemon itself has is as oslo.privsep has it, and is never
more than its container gives.

Runs in the agent, as the agent's user, in place of privsep-helper, whose arguments it takes. It holds no privilege
and judges nothing: what the daemon may be asked is oslo.privsep's matter.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from oslo_privsep import capabilities, daemon

PR_CAP_AMBIENT, RAISE, CLEAR_ALL = 47, 2, 4
libc = ctypes.CDLL(None, use_errno=True)
drop_all_caps_except = capabilities.drop_all_caps_except  # oslo.privsep's own


def ambient(action: int, capability: int = 0) -> None:
    if libc.prctl(PR_CAP_AMBIENT, action, capability, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot change the ambient capabilities: {os.strerror(number)}")


def keep(effective: Iterable[int], permitted: Iterable[int], inheritable: Iterable[int]) -> None:
    """Called by oslo.privsep with no inheritable ones: the permitted ones take their place, and become ambient.

    Raises OSError, as oslo.privsep's does when the container lacks one of them; the daemon then does not start.
    """
    wanted = tuple(permitted)
    drop_all_caps_except(effective, wanted, sorted({*inheritable, *wanted}))
    ambient(CLEAR_ALL)
    for each in wanted:
        ambient(RAISE, each)


def main() -> None:
    capabilities.drop_all_caps_except = keep
    daemon.helper_main()


if __name__ == "__main__":
    main()
