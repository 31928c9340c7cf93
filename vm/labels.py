"""Labels every file of a disk for SELinux, by the machine itself, and lets it enforce its policy from then on."""

from __future__ import annotations

from vm.assembly import Plan, assemble
from vm.cache import Cache, say
from vm.errors import VmError
from vm.keys import Keys
from vm.layers import Base
from vm.recipes import Recipe
from vm.record import Place, name_for_this_process

# The boot that relabels ends with a reboot (selinux-autorelabel, selinux-basics(8)).
_RELABEL_SECONDS = 300
_ENFORCE = "sed -i 's/^SELINUX=.*/SELINUX=enforcing/' /etc/selinux/config"
_UNLABELLED = "find / -xdev -context '*:unlabeled_t:*' -print -quit"


def label(cache: Cache, recipe: Recipe, keys: Keys, base: Base) -> None:
    """Boots the base's own disk, which nothing may be stacked on yet."""
    say(f"labelling the disk of {recipe.disk}: it boots twice")
    place = Place(name=name_for_this_process("label"))
    plan = Plan(recipe=recipe, base=base, disk=base.disk, careless=True)
    with place.locked():
        try:
            with assemble(cache, keys, place, plan) as machine:
                machine.boot(seconds=_RELABEL_SECONDS)
                if machine.shell_run("ls /.autorelabel 2>/dev/null || true"):
                    raise VmError(f"the disk was not labelled\nconsole:\n{machine.console()}")
                missed = machine.shell_run(_UNLABELLED)
                if missed:
                    raise VmError(f"{missed.strip()} has no label")
                machine.shell_run(_ENFORCE)
                machine.shut_down()
        finally:
            place.remove()
