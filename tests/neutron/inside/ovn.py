"""The real neutron-ovn-metadata-agent, from its main on, in the version of its release. It has nothing to be told.

ovn.py --config-file FILE
"""

from __future__ import annotations

import threading

import lines

# First of all: in old releases it changes what the modules after it find in the standard library.
try:
    from neutron.cmd.agents.ovn_metadata import main
except ImportError:
    from neutron.cmd.eventlet.agents.ovn_metadata import main

if __name__ == "__main__":
    threading.Thread(target=lines.answer, args=({},), daemon=True).start()
    main()
