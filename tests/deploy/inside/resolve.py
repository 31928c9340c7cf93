"""What Heat's engine makes of an environment file of TripleO's: the role data of each service that it maps, as JSON.

Run by the interpreter that has Heat, with the environment file and a JSON object of parameters. Resources that are
templates, such as ./neutron-base.yaml, are resolved as well; of others an attribute is nothing.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from heat.common import context, environment_format, template_format
from heat.engine import environment, function, resources, stack, template
from oslo_config import cfg

VALUE = "OS::Heat::Value"


def parsed(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return template_format.parse(file.read())


def substituted(node: Any, path: str, content: Any, given: dict[str, Any]) -> Any:
    """With the attributes of resources, and the files, that the engine would get from elsewhere."""
    if isinstance(node, list):
        return [substituted(each, path, content, given) for each in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1 and "get_file" in node:
        with open(os.path.join(os.path.dirname(path), node["get_file"]), encoding="utf-8") as file:
            return file.read()
    if len(node) != 1 or "get_attr" not in node:
        return {key: substituted(each, path, content, given) for key, each in node.items()}
    name, output, *keys = node["get_attr"]
    made = content["resources"][name]
    if made["type"] == VALUE:
        # Its properties refer to the template's parameters, as the place where it stands does.
        value = resolved(made["properties"][output], path, content, given)
    elif made["type"].endswith(".yaml"):
        other = os.path.join(os.path.dirname(path), made["type"])
        value = output_of(other, output, given)
    else:
        return None
    for key in keys:
        value = value.get(key)
    return value


def resolved(node: Any, path: str, content: Any, given: dict[str, Any]) -> Any:
    node = substituted(node, path, content, given)
    own = {
        key: given.get(key, key)
        for key, each in content.get("parameters", {}).items()
        if key in given or "default" not in each
    }
    bare = {key: each for key, each in content.items() if key not in ("resources", "outputs")}
    made = template.Template(
        {**bare, "resources": {}, "outputs": {"it": {"value": node}}},
        env=environment.Environment({"parameter_defaults": own}),
    )
    owner = stack.Stack(context.RequestContext(is_admin=True), "it", made)
    return function.resolve(made.parse(owner, node))


def output_of(path: str, name: str, given: dict[str, Any]) -> Any:
    content = parsed(path)
    return resolved(content["outputs"][name]["value"], path, content, given)


def main() -> None:
    cfg.CONF([], project="heat")
    resources.initialise()
    path, given = sys.argv[1], json.loads(sys.argv[2])
    with open(path, encoding="utf-8") as file:
        settings = environment_format.parse(file.read())
    given = {**given, **settings["parameter_defaults"]}
    found = {
        service: output_of(os.path.join(os.path.dirname(path), mapped), "role_data", given)
        for service, mapped in settings["resource_registry"].items()
    }
    json.dump(found, sys.stdout)


main()
