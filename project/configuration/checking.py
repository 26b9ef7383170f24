"""Completes a configuration with its defaults, and refuses unusable settings by their full dotted names."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightrail.project.basics.annotations import TypeHint, alternatives, check_range, fits, in_plain_words, item_type
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import quoted_path, reading
from lightrail.project.configuration.classes import AllowedClasses, import_path
from lightrail.project.configuration.parameters import (
    REQUIRED,
    Parameter,
    bases_of,
    class_of_type,
    deferred_type,
    has_structure,
    is_callable,
    is_fixed,
    is_open,
    parameters_of,
    plain_default,
    read,
)
from lightrail.project.configuration.sources import SPEC_KEYS, Draft, Text, as_spec
from lightrail.project.configuration.yaml_file import SettingPath, Value, read_text, shown_path

log = logging.getLogger(__name__)

OWNED = {
    "trainer.logger": "lightrail logs every run to MLflow. Choose the store in the section `tracking`, and further "
    "loggers in tracking.loggers",
    "trainer.default_root_dir": "a run's files go to its MLflow artifacts. Choose the store in the section `tracking`",
    "allow_modules": "a configuration cannot allow modules itself. Give --allow_modules on the command line",
}
"""Settings that a configuration must not contain, and why."""
OF_FUNCTIONS = {
    "lightning.pytorch.callbacks.throughput_monitor.ThroughputMonitor": "every run has throughput/... without it",
}
"""Classes that require a function, which a configuration cannot name, and what to use instead."""


@dataclass
class Checker:
    """Checks settings against the signatures of their classes, and completes them.

    The result contains plain values of the right type, and every setting that has a plain default: classes by full
    import path, their arguments in `init_args`, the content of other files in place of their names.
    """

    draft: Draft
    allowed: AllowedClasses

    def arguments(
        self, given: Mapping[str, Value], parameters: Mapping[str, Parameter], path: SettingPath
    ) -> dict[str, Value]:
        """Return the settings of one class: those given, and the plain defaults of the others. Raises: ConfigError."""
        for key in given:
            self._refuse_unknown((*path, key), parameters)
        own = {name: parameter for name, parameter in parameters.items() if not parameter.is_from_data}
        found = {name: self._argument(given, parameter, (*path, name)) for name, parameter in own.items()}
        return {name: value for name, value in found.items() if value is not REQUIRED}

    def _refuse_unknown(self, path: SettingPath, parameters: Mapping[str, Parameter]) -> None:
        if (dotted := ".".join(path)) in OWNED:
            raise ConfigError(f"{self.at(path)} cannot be set: {OWNED[dotted]}.")
        if parameter := parameters.get(path[-1]):
            if parameter.is_from_data:
                raise ConfigError(f"{self.at(path)} cannot be set: its value comes from the data. Remove it.")
            return
        if path in self.draft.inherited:
            log.warning("%s was given for another class and is left out", dotted)
            return
        prefix = "".join(f"{key}." for key in path[:-1])
        raise ConfigError(f"{self.at(path)}: no such setting.{did_you_mean(path[-1], parameters, prefix=prefix)}")

    def _argument(self, given: Mapping[str, Value], parameter: Parameter, path: SettingPath) -> Value:
        if parameter.name in given:
            found = self._value(given[parameter.name], parameter, path)
            check_range(found, parameter.annotation, self.at(path))
            self._refuse_unusable(found, path)
            return found
        if parameter.default is not REQUIRED:
            return self._default(parameter, path)
        if parameter.is_required:
            raise ConfigError(f"{self.at(path)} is required: {in_plain_words(parameter.annotation)}.")
        return self._value({}, parameter, path)

    def _value(self, value: Value, parameter: Parameter, path: SettingPath) -> Value:
        value = self._opened(value, parameter, path)
        if isinstance(value, dict):
            return self._mapping(value, parameter, path)
        if isinstance(value, str):
            return self._text(value, parameter, path)
        members = alternatives(parameter.annotation)
        if isinstance(value, list) and has_structure(parameter.annotation) and any(fits(value, m) for m in members):
            items = (Parameter(str(i), item_type(parameter.annotation, list, i)) for i in range(len(value)))
            return [self._value(item, inner, (*path, inner.name)) for item, inner in zip(value, items, strict=True)]
        return self._leaf(value, parameter, path)

    def _opened(self, value: Value, parameter: Parameter, path: SettingPath) -> Value:
        """Read the file named where a class or a group of settings is expected, and YAML given as one text."""
        members = alternatives(parameter.annotation)
        name = value.get("class_path") if isinstance(value, dict) else value
        takes_file = any(is_open(member) or is_fixed(member) for member in members)
        if takes_file and isinstance(name, str) and name.endswith((".yaml", ".yml")):
            over = {key: item for key, item in value.items() if key != "class_path"} if isinstance(value, dict) else {}
            return self.draft.open_file(name, over, path)
        if isinstance(value, Text) and (str not in members or has_structure(parameter.annotation)):
            with reading(self.at(path), "Give a value that YAML can hold."):
                content = read_text(value)
            if content is None and type(None) in members and not (str in members and value != "null"):
                return None
            return content if isinstance(content, dict | list) or Any in members else value
        return {} if value is None and any(map(is_fixed, members)) and type(None) not in members else value

    def _mapping(self, value: dict[str, Value], parameter: Parameter, path: SettingPath) -> Value:
        members = alternatives(parameter.annotation)
        for fixed in filter(is_fixed, members):
            return self.arguments(value, self._parameters(fixed, parameter.default, path), path)
        if any(map(is_open, members)) and (SPEC_KEYS & value.keys() or not any(fits({}, m) for m in members)):
            return self._spec(as_spec(value), parameter, path)
        if "class_path" in value:
            raise ConfigError(f"{self.at(path)} takes plain values, not a class (found {shown(value['class_path'])}).")
        if not has_structure(parameter.annotation) or not any(fits(value, member) for member in members):
            return self._leaf(value, parameter, path)
        inner = item_type(parameter.annotation, dict)
        return {key: self._value(item, Parameter(key, inner), (*path, key)) for key, item in value.items()}

    def _text(self, value: str, parameter: Parameter, path: SettingPath) -> Value:
        members = alternatives(parameter.annotation)
        is_text = any(fits(value, member) for member in members)
        self._refuse_unwritable(value, path)
        if any(map(is_callable, members)) and ("." in value if is_text else not self._reads(value, parameter)):
            raise ConfigError(f"{self.at(path)}: {shown(value)}: a configuration cannot name a function.")
        if bases := tuple(base for base in map(class_of_type, members) if base):
            return import_path(self.allowed.find(value, bases, self.at(path)))
        bases = bases_of(parameter.annotation)
        if bases and (not is_text or self.allowed.knows(value, bases)):
            return self._spec({"class_path": value}, parameter, path)
        return self._leaf(value, parameter, path)

    def _spec(self, spec: dict[str, Value], parameter: Parameter, path: SettingPath) -> Value:
        """Check a class and its arguments; the class is that of the default when none is named."""
        members = alternatives(parameter.annotation)
        name, given = spec.get("class_path"), spec.get("init_args") or {}
        if name is None and dataclasses.is_dataclass(parameter.default):
            name = import_path(type(parameter.default))
        if not isinstance(name, str):
            raise ConfigError(f"{self.at((*path, 'class_path'))} is required: the name of a class.")
        bases = bases_of(parameter.annotation)
        if any(fits(name, member) for member in members) and not self.allowed.knows(name, bases):
            return self._replaced_by_text(name, given, parameter, path)
        found = self.allowed.find(name, bases, self.at((*path, "class_path")))
        inner = (*path, "init_args")
        if (instead := OF_FUNCTIONS.get(import_path(found))) is not None:
            where = self.at((*path, "class_path"))
            raise ConfigError(
                f"{where}: {found.__name__} cannot be used here: it takes a function; {instead}. Remove it."
            )
        if not isinstance(given, dict):
            raise ConfigError(f"{self.at(inner)}: expected arguments as `name: value`, found {shown(given)}.")
        taken = self._parameters(found, parameter.default, inner)
        if (deferred := deferred_type(parameter.annotation, found)) is not None:
            deferred.check(found, self.at((*path, "class_path")))
            decided = deferred.decided(found)
            for key in given.keys() & decided.keys():
                raise ConfigError(f"{self.at((*inner, key))} cannot be set: {decided[key]}. Remove it.")
            taken = {key: item for key, item in taken.items() if key not in decided}
        return {"class_path": import_path(found), "init_args": self.arguments(given, taken, inner)}

    def _replaced_by_text(
        self, name: str, given: Mapping[str, Value], parameter: Parameter, path: SettingPath
    ) -> Value:
        """Return a text, such as `strategy: auto`, that replaces a class of which only old arguments are left."""
        for key in given:
            self._refuse_unknown((*path, "init_args", key), {})
        return self._leaf(name, parameter, path)

    def _parameters(self, target: type, default: object, path: SettingPath) -> Mapping[str, Parameter]:
        """Return the parameters of a class; a default that is an instance of it provides their defaults."""
        found = parameters_of(target)
        if type(default) is target and dataclasses.is_dataclass(default):
            found = {name: dataclasses.replace(item, default=getattr(default, name)) for name, item in found.items()}
        return {name: item for name, item in found.items() if ".".join((*path, name)) not in OWNED}

    def _default(self, parameter: Parameter, path: SettingPath) -> Value:
        """Return a default as plain value; REQUIRED when it has none and the class must fill it in."""
        default = parameter.default
        if not dataclasses.is_dataclass(default) or isinstance(default, type):
            return plain_default(parameter)
        members, name = alternatives(parameter.annotation), import_path(type(default))
        if is_fixed(type(default)) and type(default) in members:
            return self._mapping({}, parameter, path)
        if self.allowed.knows(name, bases := tuple(filter(is_open, members))) and isinstance(default, bases):
            return self._spec({"class_path": name}, parameter, path)
        return REQUIRED

    def _leaf(self, value: Value, parameter: Parameter, path: SettingPath) -> Value:
        annotation, members = parameter.annotation, alternatives(parameter.annotation)
        if any(map(is_fixed, members)) and not any(fits(value, member) for member in members):
            raise ConfigError(f"{self.at(path)}: expected settings as `name: value`, found {shown(value)}.")
        if isinstance(value, Text) and str in members:
            return self._text_or_other(str(value), annotation, path)
        plain_value = self._as_written(str(value) if isinstance(value, Text) else value, annotation, path)
        return read(plain_value, annotation, self.at(path))[1]

    def _text_or_other(self, text: str, annotation: TypeHint, path: SettingPath) -> Value:
        """Return a text of the command line as what it is: the text itself unless another type of the union reads it.

        YAML takes `#42` for a comment, and `~` for null; here only `null` is null.
        """
        members = alternatives(annotation)
        if text == "null" and type(None) in members:
            return None
        if set(members) <= {str, type(None)} or (content := read_text(text)) is None:
            return text
        is_structure = isinstance(content, dict | list) and any(fits(content, member) for member in members)
        return read(content if is_structure else text, annotation, self.at(path))[1]

    def _as_written(self, value: Value, annotation: TypeHint, path: SettingPath) -> Value:
        """Return numbers, true and false of a file as the texts that are written there, where only texts are expected.

        The version 1.10 is then not 1.1, and a column may be called `yes`.
        """
        if isinstance(value, dict):
            inner = item_type(annotation, dict)
            return {key: self._as_written(item, inner, (*path, key)) for key, item in value.items()}
        members, origin = alternatives(annotation), self.draft.origin(path)
        is_number = isinstance(value, bool | int | float)
        if is_number and origin and origin.written and str in members and not any(fits(value, own) for own in members):
            return origin.written
        return value

    def _reads(self, value: Value, parameter: Parameter) -> bool:
        """Whether a text is a value of one of the types that are no function."""
        try:
            read(str(value), parameter.annotation)
        except ConfigError:
            return False
        return True

    def _refuse_unusable(self, value: Value, path: SettingPath) -> None:
        """Refuse values that no setting can use, and that libraries fail on much later. Raises: ConfigError."""
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                self._refuse_unusable(item, (*path, str(key)))
        elif isinstance(value, str):
            self._refuse_unwritable(value, path)
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{self.at(path)}: {shown(value)} has more than 64 bits. Give a smaller number.")
        elif isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and path[0] in ("model", "data"))):
            raise ConfigError(f"{self.at(path)}: expected a finite number, found {value}. Give a number.")

    def _refuse_unwritable(self, text: str, path: SettingPath) -> None:
        """Refuse a text that no file or database can hold. Raises: ConfigError."""
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"{self.at(path)}: {shown(text)} is not valid Unicode text, or holds a null character.")

    def at(self, path: SettingPath) -> str:
        """Return a setting's dotted name, behind the file and line that gave it, if any."""
        origin, dotted = self.draft.origin(path), shown_path(path)
        return f"{quoted_path(origin.file)}:{origin.line}: {dotted}" if origin else dotted
