"""The units' command: `python3 -I -S run.py sync|load|directories|remove-directories SERVICE`.

Without the site module, so that only the standard library and this package can be imported as root on a
request, and the interpreter starts in half the time.
"""

import gc
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # after the standard library


def main(arguments: list[str]) -> int:
    from sidespawn.core.policy import is_service_name

    if len(arguments) != 2 or not is_service_name(arguments[1]):
        sys.stderr.write("usage: run.py sync|load|directories|remove-directories SERVICE\n")
        return 64
    verb, service = arguments
    if verb == "sync":
        gc.disable()  # everything that an import makes stays: searching repeatedly for garbage takes 2 ms
        from sidespawn.host import sync

        gc.freeze()
        gc.enable()
        return sync.main(service)
    if verb == "load":
        from sidespawn.host import policies
        from sidespawn.system.places import Places

        return policies.main(Places(service))
    from sidespawn.host import directories

    return directories.main(verb, service)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
