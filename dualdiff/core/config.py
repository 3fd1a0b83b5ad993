"""Settings as frozen dataclasses: the mechanism only. What can be set lives with its owner.

A config is a frozen keyword-only dataclass whose fields are made by `setting`; a settings file is one dataclass whose
fields are made by `section`. `read` turns a TOML text into it and refuses what it does not know or cannot be, naming
file, line, key, the allowed values and the closest name; `write` turns it back into TOML with a line of meaning each.
"""

import dataclasses
import logging
import math
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import tomli

from dualdiff.core.errors import ConfigError, did_you_mean

_log = logging.getLogger(__name__)

T = TypeVar("T")
Table = dict[str, Any]

ABLATION = "ablation"
"""The last section of a settings file: choices of the design, as dotted keys of the sections they belong to."""
LONGEST_ALIGNED = 60
"""Letters of a line `key = value` up to which the meanings of a section stand below each other."""


def setting(
    default: Any,
    meaning: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    ablation: bool = False,
) -> Any:
    """A field of a config: its default, one line of meaning, and the range of a number (or of a list's numbers).

    An `ablation` is a choice of the design that experiments change: `write` puts it into the last section of the file.
    """
    limits = {"at least": minimum, "above": above, "at most": maximum, "below": below}
    given = {word: bound for word, bound in limits.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"meaning": meaning, "limits": given, "ablation": ablation})


def section(
    name: str,
    owner: "type[Any] | Mapping[str, Any]",
    meaning: str,
    *,
    default: str = "",
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    """A field of a settings file: the TOML table `name`, holding a config class.

    `owner` is the class, or a table of named classes that each have a field `name`; then the key `name` of the TOML
    table selects one, `default` unless said. A name added to the table is at once a legal value. `defaults` replace
    the class's own in this section.
    """
    factory: Any = owner if isinstance(owner, type) else owner[default]
    metadata = {"section": name, "owner": owner, "default": default, "defaults": defaults, "meaning": meaning}
    return dataclasses.field(default_factory=lambda: factory(**defaults), metadata=metadata)


@dataclass(frozen=True)
class Source:
    """Where a table of settings came from, so that an error can name the file and the line."""

    file: str = "settings"
    text: str = ""
    overrides: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        """`dualdiff.toml, line 12` for a dotted key, or the `--set` that gave it, or just the file."""
        given = [override for override in self.overrides if override == key or override.startswith(f"{key}.")]
        if key in self.overrides or (given and not line_of(self.text, given[-1])):
            return f"--set {given[-1]}"
        line = line_of(self.text, key) or line_of(self.text, f"{ABLATION}.{key}")
        return f"{self.file}, line {line}" if line else self.file


def line_of(text: str, key: str) -> int:
    """The line (from 1) of TOML text on which a dotted key, or failing that its table, is set; 0 if on none."""
    table, found_table = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[{1,2}([^\[\]]+)\]", raw)
        if header:
            table = ".".join(part.strip().strip("\"'") for part in header[1].split("."))
            found_table = number if table == key else found_table
            continue
        assigned = re.match(r"\s*([\w.\-\"' ]+?)\s*=", raw)
        if assigned:
            name = assigned[1].replace('"', "").replace("'", "")
            if (f"{table}.{name}" if table else name) == key:
                return number
    return found_table


def parse_toml(text: str, file: str) -> Table:
    """Parse TOML text; a syntax error becomes one line with the place.

    Raises:
        ConfigError: the text is not TOML.
    """
    try:
        return tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}", "strings need quotes, lists need [ ]") from error


def parse_override(override: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is read as TOML, and as a plain string where it is not TOML.

    Raises:
        ConfigError: there is no `=`, or no dotted key before it.
    """
    key, equals, value = override.partition("=")
    key = key.strip().removeprefix(f"{ABLATION}.")
    if not equals or "." not in key or not all(key.split(".")):
        raise ConfigError(
            f"--set {override}: not of the form section.key=value", "for example --set vae.train.steps=24"
        )
    try:
        return key, tomli.loads(f"value = {value}")["value"]
    except (tomli.TOMLDecodeError, RecursionError):
        return key, value.strip()


def merge(base: Table, over: Table) -> Table:
    """A copy of `base` with the values of `over` laid on top, table by table."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


def read(
    cls: type[T], text: str, file: str, overrides: Sequence[str] = (), removed: Sequence[str] = ()
) -> tuple[T, Source]:
    """Read a settings file: the TOML `text` with `overrides` on top, strictly, into the dataclass `cls`.

    Sections and dotted keys in `removed`, of earlier versions, are ignored with a warning. Returns the settings and
    their source, which names the line of any key in later messages.

    Raises:
        ConfigError: unknown section or key, wrong type, value out of range, not TOML.
    """
    table = _with_ablations(cls, parse_toml(text, file), Source(file, text))
    for key in removed:
        if _remove(table, key.split(".")):
            _log.warning("%s: %s is no longer a setting: ignored", Source(file, text).where(key), key)
    pairs = [parse_override(override) for override in overrides]
    for key, value in pairs:
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        table = merge(_without_another_choice(cls, table, key, value), nested)
    source = Source(file, text, tuple(key for key, _ in pairs))
    return _build_sections(cls, table, source), source


def _with_ablations(cls: type[Any], table: Table, source: Source) -> Table:
    """The table with the keys of its section `ABLATION` in the sections that they belong to."""
    ablations = table.pop(ABLATION, {})
    known = {key for key, owner in _settings_of(cls) if owner.metadata["ablation"]}
    found = list(_leaves(ablations)) if isinstance(ablations, dict) else [ABLATION]
    there = set(_leaves(table))
    for key in found:
        if key not in known:
            hint = did_you_mean(key, known) or "the others stand in sections of their own"
            raise ConfigError(f'{source.where(key)}: [{ABLATION}] has no setting "{key}"', hint)
        if key in there:
            raise ConfigError(f"{source.where(key)}: {key} is set twice, there and in [{ABLATION}]", "remove one")
    return merge(table, ablations)


def _settings_of(cls: type[Any]) -> "Iterator[tuple[str, dataclasses.Field[Any]]]":
    """Every dotted key that a settings file may hold, with its field."""
    for section_field in dataclasses.fields(cls):
        owner = section_field.metadata["owner"]
        for config in [owner] if isinstance(owner, type) else owner.values():
            for field in dataclasses.fields(config):
                yield f"{section_field.metadata['section']}.{field.name}", field


def _leaves(table: Table, prefix: str = "") -> Iterator[str]:
    """The dotted keys of the values in a table of tables."""
    for key, value in table.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def _remove(table: Table, parts: Sequence[str]) -> bool:
    """Remove a key from a table of tables; whether it was there."""
    found: Any = table
    for part in parts[:-1]:
        found = found.get(part) if isinstance(found, dict) else None
    return isinstance(found, dict) and found.pop(parts[-1], None) is not None


def _without_another_choice(cls: type[Any], table: Table, key: str, value: Any) -> Table:
    """The table without the section whose choice (`name`) the override `key` = `value` changes.

    What the file says there is about another class than the one that is chosen now.
    """
    for field in dataclasses.fields(cls):
        name = field.metadata["section"]
        found = table.get(name)  # a section with a choice is at the top
        has_choice = not isinstance(field.metadata["owner"], type)
        if key == f"{name}.name" and has_choice and isinstance(found, dict) and found.get("name") != value:
            return {other: content for other, content in table.items() if other != name}
    return table


def assemble(cls: type[T], table: Table) -> T:
    """A settings dataclass from a table of sections, as strictly as `read`: for presets, which are not files."""
    return _build_sections(cls, table, Source())


def _build_sections(cls: type[T], table: Table, source: Source) -> T:
    fields = {field.metadata["section"]: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: Table = {}
    for name, field in fields.items():
        children = {other[len(name) + 1 :] for other in fields if other.startswith(name + ".")}
        found = _descend(table, name, source)
        own = {key: value for key, value in found.items() if key not in children}
        _refuse_unknown_children(own, name, children, source)
        values[field.name] = _build_section(field, own, source)
    _refuse_unknown_sections(table, list(fields), source)
    return cls(**values)


def _refuse_unknown_children(table: Table, name: str, children: set[str], source: Source) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            known = sorted(f"{name}.{child}" for child in children)
            hint = did_you_mean(f"{name}.{key}", known) or (f"there is [{'], ['.join(known)}]" if known else "")
            raise ConfigError(f"{source.where(f'{name}.{key}')}: [{name}.{key}] is not a section", hint)


def _descend(table: Table, name: str, source: Source) -> Table:
    for part in name.split("."):
        table = table.get(part, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{source.where(name)}: {name} is a section, not a value", f"write [{name}] above its keys"
            )
    return table


def _refuse_unknown_sections(table: Table, known: list[str], source: Source) -> None:
    for key, value in table.items():
        if not any(name.split(".")[0] == key for name in known):
            hint = did_you_mean(key, known) or f"the sections are {', '.join(f'[{name}]' for name in known)}"
            kind = f"[{key}] is not a section" if isinstance(value, dict) else f"{key} stands outside of every section"
            raise ConfigError(f"{source.where(key)}: {kind}", hint)


def _build_section(field: "dataclasses.Field[Any]", table: Table, source: Source) -> Any:
    owner, name = field.metadata["owner"], field.metadata["section"]
    table = {**field.metadata["defaults"], **table}
    if isinstance(owner, type):
        return build(owner, table, source, name)
    chosen = table.get("name", field.metadata["default"])
    if chosen not in owner:
        hint = did_you_mean(str(chosen), owner) or f"it is one of {_listed(owner)}"
        raise ConfigError(f"{source.where(f'{name}.name')}: {name}.name = {_toml(chosen)} is not known", hint)
    return build(owner[chosen], table, source, name)


def build(cls: type[T], table: Mapping[str, Any], source: Source = Source(), prefix: str = "") -> T:
    """Build a config dataclass from a plain table, strictly.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, or refused by the class's own `__post_init__`.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: Table = {}
    for key, value in table.items():
        dotted = f"{prefix}.{key}" if prefix else key
        if key not in fields:
            hint = did_you_mean(key, fields) or f"the settings here are {', '.join(fields)}"
            section_name = f"[{prefix}]" if prefix else cls.__name__
            raise ConfigError(f'{source.where(dotted)}: {section_name} has no setting "{key}"', hint)
        try:
            values[key] = _checked(hints[key], value, fields[key].metadata.get("limits", {}))
        except ValueError as error:
            meaning = fields[key].metadata.get("meaning", "")
            raise ConfigError(
                f"{source.where(dotted)}: {dotted} = {_shortened(_toml(value))} {error}", meaning
            ) from None
    try:
        return cls(**values)
    except ValueError as error:  # a bad combination, refused by the config itself in words
        raise ConfigError(f"{source.where(prefix)}: [{prefix}] {error}") from None


def _checked(kind: Any, value: Any, limits: Mapping[str, float]) -> Any:
    """The value as its declared type, or a ValueError that ends the sentence `key = value ...`."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        allowed = typing.get_args(kind)
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            close = did_you_mean(str(value), [str(word) for word in allowed])
            raise ValueError(f"is not allowed: it is one of {_listed(allowed)}" + (f"; {close}" if close else ""))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("is not a list with at least one item")
        try:
            return tuple(_checked(typing.get_args(kind)[0], item, limits) for item in value)
        except ValueError as error:
            raise ValueError(f"has an item that {error}") from None
    return _checked_scalar(kind, value, limits)


def _shortened(text: str) -> str:
    """A value for one line of an error: its beginning, where it is long."""
    return text if len(text) <= 80 else f"{text[:79]}…"


def _checked_scalar(kind: Any, value: Any, limits: Mapping[str, float]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
    if kind not in words:
        raise TypeError(f"a setting cannot be of type {kind}")
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"is not {words[kind]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is not a finite number")
    if kind is int and not -(2**63) <= value < 2**63:
        raise ValueError("is out of range: it must fit into 64 bits")
    checks = {
        "at least": lambda bound: value >= bound,
        "at most": lambda bound: value <= bound,
        "above": lambda bound: value > bound,
        "below": lambda bound: value < bound,
    }
    for word, bound in limits.items():
        if not checks[word](bound):
            allowed = " and ".join(f"{word} {limit:g}" for word, limit in limits.items())
            raise ValueError(f"is out of range: it must be {allowed}")
    return value


def plain(config: Any) -> Table:
    """A config dataclass as a plain table of JSON types: what is stored beside weights; `build` reads it back."""
    return {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in dataclasses.fields(config)
    }


def write(settings: Any, heading: str = "") -> str:
    """A settings dataclass as TOML: every section and key, each with its line of meaning; ablations come last."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    ablations = []
    for field in dataclasses.fields(settings):
        name, config = field.metadata["section"], getattr(settings, field.name)
        has_choice = not isinstance(field.metadata["owner"], type)
        entries = [(key, text, own) for key, text, own in _entries(config) if has_choice or not _is_fixed(config, key)]
        ablations += [(f"{name}.{text}", meaning) for key, text, meaning in entries if _is_ablation(config, key)]
        own = [(text, meaning) for key, text, meaning in entries if not _is_ablation(config, key)]
        lines += ["", f"[{name}]  # {field.metadata['meaning']}", *_aligned(own)] if own else []
    if ablations:
        lines += ["", f"[{ABLATION}]  # choices of the design, for experiments", *_aligned(ablations)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _entries(config: Any) -> Iterator[tuple[str, str, str]]:
    """Each setting of a config: its key, the line `key = value`, and its meaning with what it may be."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        allowed = hints[field.name]
        choices = f" ({' | '.join(map(str, typing.get_args(allowed)))})" if _is_choice(allowed) else ""
        text = f"{field.name} = {_toml(getattr(config, field.name))}"
        yield field.name, text, field.metadata["meaning"] + choices


def _aligned(entries: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(text) for text, _ in entries if len(text) <= LONGEST_ALIGNED), default=0)
    return [f"{text:<{width}}  # {meaning}" for text, meaning in entries]


def _is_ablation(config: Any, key: str) -> bool:
    return any(field.name == key and field.metadata["ablation"] for field in dataclasses.fields(config))


def _is_fixed(config: Any, key: str) -> bool:
    """Whether a setting has one legal value, as the name of the only architecture: files need not hold it."""
    kind = typing.get_type_hints(type(config))[key]
    return typing.get_origin(kind) is typing.Literal and len(typing.get_args(kind)) == 1


def _is_choice(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal and len(typing.get_args(kind)) > 1


def _listed(words: Any) -> str:
    return ", ".join(_toml(word) for word in words)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value)
    return str(value)
