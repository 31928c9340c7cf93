"""oslo.privsep's daemon for an agent that is not root: its children keep its capabilities.

    [privsep]                                             in the agent's configuration file, and in each privsep_...
    helper_command = python3 -m sidespawn.agent.privsep --config-file /etc/neutron/neutron.conf
    capabilities = CAP_SYS_ADMIN, CAP_NET_ADMIN

oslo.privsep reduces its daemon to the capabilities of its context, and clears the inheritable ones. This does not
affect root. But programs that the daemon runs as another user then have none, and `ip netns exec` fails. With sudo they
would not keep any either, and no_new_privs makes sudo unusable. Here the same capabilities become inheritable and
ambient, so programs have the daemon's capabilities. The daemon's own capabilities are those that oslo.privsep sets, and
never more than its container gives.

Runs in the agent, as the agent's user, in place of privsep-helper, whose arguments it takes. It holds no privileges and
checks nothing: oslo.privsep decides what the daemon may be asked.
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
    """Make the permitted capabilities inheritable and ambient; oslo.privsep calls this without inheritable ones.

    Raises OSError, as oslo.privsep's function does, if the container lacks one of them; then the daemon does not start.
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
