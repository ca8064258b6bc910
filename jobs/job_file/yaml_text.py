"""Reads YAML strictly: no duplicate keys, no tags, and only what looks like a number is a number.

Numbers are decimal (5, 1_000, 0.5, 7e-2); true and false are booleans; null, ~ and an empty value are null; everything
else is text. YAML 1.1 would read 010 as 8, 1:30 as 90, no as false, and 2024-01-01 as a date.
"""

import re
from typing import Any

import yaml

from winnow.pipeline.errors import JobError

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_WHOLE = re.compile(rf"[-+]?{_DIGITS}")
_NUMBER = re.compile(
    rf"[-+]?(?:{_DIGITS}\.[0-9]*(?:[eE][-+]?[0-9]+)?|{_DIGITS}[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MOST_DIGITS = 300  # Python's own limit for integers is 4,300
_NULL = ("", "~", "null", "Null", "NULL")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """YAML's grammar without its scalar types; the resolvers below define them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  as PyYAML declares it


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1, or `loads`, would read as another type."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}int", re.compile(rf"(?:{_WHOLE.pattern})\Z"), [*"-+0123456789"])
    _kind.add_implicit_resolver(f"{_TAG}float", re.compile(rf"(?:{_NUMBER.pattern})\Z"), [*"-+0123456789."])
    _kind.add_implicit_resolver(f"{_TAG}bool", re.compile(rf"(?:{'|'.join(_TRUTH)})\Z"), [*"tTfF"])
    _kind.add_implicit_resolver(f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)\Z"), [*"~nN", ""])
    _kind.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<\Z"), ["<"])


def loads(text: str, where: str) -> Any:
    """The plain values of one document: dict, list, str, int, float, bool, None; nothing is shared between places.

    where: names the text in errors. Raises JobError with the line for invalid YAML, a key that comes twice at any depth
    or is not text, a tag, a number beyond the range of float64, and text that UTF-8 cannot hold.
    """
    try:
        node = _Loader(text).get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        raise JobError(f"{where} must be YAML: {error}") from error
    return None if node is None else _value(node, where, ())


def dumps(value: object, **layout: Any) -> str:
    """Plain values as YAML that `loads` reads back unchanged; keys keep their order. layout: options of yaml.dump."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, **layout)
    return text


def _value(node: yaml.Node, where: str, above: tuple[yaml.Node, ...]) -> Any:
    if node in above:
        raise JobError(
            f"{_at(node, where)}: an alias (*) must stand for something outside itself, but this one is inside its own "
            "anchor (&)"
        )
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, where, (*above, node))
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(entry, where, (*above, node)) for entry in node.value]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, where)
    raise _tagged(node, where)


def _mapping(node: yaml.MappingNode, where: str, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        name = _value(key, where, above)
        if not isinstance(name, str):
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise JobError(f"{_at(key, where)}: a key must be text, got {shown}; quote it if it is a name")
        if name in lines:
            raise JobError(
                f"{where}: a key must come once, but {name} is in line {lines[name]} and again in line {_line(key)}; "
                f"remove one of them"
            )
        lines[name] = _line(key)
        if key.tag == f"{_TAG}merge":
            merged = _merged(value, where, above)
        else:
            found[name] = _value(value, where, above)
    return {**merged, **found}


def _merged(node: yaml.Node, where: str, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
    """The keys that a merge (<<) adds. The first mapping with a key wins; a key beside the merge overrides all."""
    values = _value(node, where, above)
    found: dict[str, Any] = {}
    for value in reversed(values) if isinstance(values, list) else [values]:
        if not isinstance(value, dict):
            raise JobError(f"{_at(node, where)}: << must merge a mapping or a list of them, got {value!r}")
        found |= value
    return found


def _scalar(node: yaml.ScalarNode, where: str) -> Any:
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind in ("str", "merge"):
        if _SURROGATE.search(text):
            raise JobError(f"{_at(node, where)}: text must be Unicode, got half of a surrogate pair: {text!r}")
        return text
    if kind == "bool" and text in _TRUTH:
        return _TRUTH[text]
    if kind == "null" and text in _NULL:
        return None
    if (kind == "int" and _WHOLE.fullmatch(text)) or (kind == "float" and _NUMBER.fullmatch(text)):
        return _number(node, kind, where)
    raise _tagged(node, where)


def _number(node: yaml.ScalarNode, kind: str, where: str) -> int | float:
    digits = node.value.replace("_", "").lower()
    if digits[-1] in "fn":
        return float(digits.replace(".", ""))  # .inf, .nan
    if len(digits) > _MOST_DIGITS or float(digits) in (float("inf"), float("-inf")):
        raise JobError(f"{_at(node, where)}: a number must be below 1.8e308, got {node.value[:40]}")
    return int(digits) if kind == "int" else float(digits)


def _tagged(node: yaml.Node, where: str) -> JobError:
    tag = node.tag.replace(_TAG, "!!")
    return JobError(f"{_at(node, where)}: a value must have no tag, got {tag}; write the plain value")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _at(node: yaml.Node, where: str) -> str:
    return f"{where}, line {_line(node)}"
