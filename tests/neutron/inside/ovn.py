"""The real neutron-ovn-metadata-agent of one release, run from its own main. It takes no commands.

ovn.py --config-file FILE
"""

from __future__ import annotations

import threading

import lines

# First of all: in old releases it patches the standard library for all later imports.
try:
    from neutron.cmd.agents.ovn_metadata import main
except ImportError:
    from neutron.cmd.eventlet.agents.ovn_metadata import main

if __name__ == "__main__":
    threading.Thread(target=lines.answer, args=({},), daemon=True).start()
    main()
