"""From the checked values of a configuration to the objects they describe."""

from collections.abc import Mapping
from typing import Any, get_origin

from lightrail.project.configuration.classes import import_class
from lightrail.project.configuration.leaves import read
from lightrail.project.configuration.parameters import TypeHint, alternatives, class_of_type, has_structure, is_fixed, is_open, item_type, parameters_of
from lightrail.project.configuration.yaml_file import Value


def build(target: type, values: Mapping[str, Value]) -> dict[str, Any]:
    """Arguments for `target`, in which nested dataclasses and classes are built."""
    parameters = parameters_of(target)
    return {name: _built(value, parameters[name].annotation) for name, value in values.items()}


def _built(value: Value, annotation: TypeHint) -> Any:
    members = alternatives(annotation)
    if isinstance(value, str) and any(map(class_of_type, members)):
        return import_class(value)
    if isinstance(value, dict):
        for fixed in filter(is_fixed, members):
            return fixed(**build(fixed, value))
        if "class_path" in value and any(map(is_open, members)):
            target = import_class(value["class_path"])
            return target(**build(target, value["init_args"]))
    if isinstance(value, dict | list) and has_structure(annotation):
        return _built_items(value, annotation)
    return read(value, annotation)[0]


def _built_items(value: dict[str, Value] | list[Value], annotation: TypeHint) -> object:
    if isinstance(value, dict):
        return {key: _built(item, item_type(annotation, dict)) for key, item in value.items()}
    items = [_built(item, item_type(annotation, list, index)) for index, item in enumerate(value)]
    origins = (get_origin(member) or member for member in alternatives(annotation))
    container = next((origin for origin in origins if origin in (list, tuple, set, frozenset)), list)
    return container(items)
