"""Read YAML that people write. Every fault of the text is a message with its line, in less than a second."""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.events import Event
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mobileclip2.errors import ProfileError

MAX_BYTES = 128 << 10
"""maximum size of a file; the largest built-in profile has 4 KiB"""
MAX_VALUES = 10_000
"""maximum number of values, where each use of an alias counts as a copy"""
MAX_DEPTH = 50
"""maximum number of nested lists and mappings"""

_MERGE = "tag:yaml.org,2002:merge"
_STRING = "tag:yaml.org,2002:str"
_OTHER_TYPES = {"binary", "omap", "pairs", "set", "timestamp"}
"""types of YAML that JSON does not have"""

_INT64 = range(-(1 << 63), 1 << 63)
_OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Read the text of a YAML file.

    Raises:
        ProfileError: the file cannot be read, is not UTF-8 or exceeds a limit.
    """
    try:
        if path.exists() and not path.is_file():
            raise ProfileError(f"{path}: not a file; give the path of a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        cause = problem.strerror if isinstance(problem, OSError) else "the path contains a NUL character"
        raise ProfileError(f"{path}: cannot read the profile: {cause}") from None
    if len(data) > MAX_BYTES:
        raise ProfileError(
            f"{path}: larger than {MAX_BYTES:,} bytes; it is not a file that people write, give another path"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        encoding = "UTF-16 or UTF-32" if data.startswith(_OTHER_ENCODINGS) else "not UTF-8"
        line = data.count(b"\n", 0, problem.start) + 1
        raise ProfileError(f"{path}, line {line}: the text is {encoding}; save it as UTF-8") from None


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text. ``name`` is the file in messages.

    Raises:
        ProfileError: the text is not YAML, has a key twice or exceeds a limit. The message never quotes the line, which can
            contain a secret.
    """
    if len(text) > MAX_BYTES:
        raise ProfileError(f"{name}: larger than {MAX_BYTES:,} characters; it is not text that people write")
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        kind = "" if isinstance(problem, _Fault) else "not YAML: "
        raise ProfileError(f"{name}{where}: {kind}{problem.problem or problem.context}; correct that line") from None
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        raise ProfileError(
            f"{name}, line {line}: not YAML: the character U+{problem.character:04X} is not allowed; delete it, and save "
            "the file as UTF-8"
        ) from None


def redact(text: str, *paths: tuple[str, ...]) -> str:
    """Return YAML text with ``'***'`` for each value below one of ``paths``, and all else unchanged.

    An element ``*`` of a path stands for every key of a mapping and every item of a list. Merged mappings (``<<``) count as
    written out. A value that a field elsewhere shares through an alias stays, because it belongs to that field too.
    """
    root = _Loader(text).get_single_node()
    hidden = Counter(each for path in paths for node in _find(root, path) for each in _scalars(node))
    uses = Counter(_scalars(root))
    for node in sorted(hidden, key=lambda each: -each.start_mark.index):
        if uses[node] > hidden[node] or not node.value:
            continue
        start, end = node.start_mark.index, node.end_mark.index
        value = text[start:end]
        properties = re.match(r"(?:[&!]\S*\s+)*", value)
        assert properties is not None
        text = f"{text[:start]}{properties[0]}'***'{value[len(value.rstrip()) :]}{text[end:]}"
    return text


def _find(node: Node | None, path: tuple[str, ...]) -> Iterator[Node]:
    if node is not None and not path:
        yield node
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    yield from _find(merged, path)
            elif path[0] in {"*", key.value}:
                yield from _find(value, path[1:])
    elif isinstance(node, SequenceNode) and path[0] == "*":
        for item in node.value:
            yield from _find(item, path[1:])


def _scalars(node: Node | None) -> Iterator[ScalarNode]:
    """Yield the values of a node, without the keys of its mappings."""
    if isinstance(node, ScalarNode):
        yield node
    elif node is not None:
        for item in node.value:
            yield from _scalars(item[1] if isinstance(node, MappingNode) else item)


class _Loader(yaml.SafeLoader):
    """Read ``1e-3`` as a number, as YAML 1.2 and DVC do, and bound the time and memory of every text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._values += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Fault(event, f"more than {MAX_DEPTH} nested lists and mappings")
        if self._values > MAX_VALUES:
            raise _Fault(event, f"more than {MAX_VALUES:,} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _check(node, {}, set())
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        try:
            value = super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise _Fault(node, f"not a valid value of type '{kind}'") from None
        if kind in _OTHER_TYPES:
            raise _Fault(node, f"the type '{kind}' is not accepted; write text, and put it in quotes")
        if isinstance(value, int) and value not in _INT64:
            raise _Fault(node, "the number needs more than 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise _Fault(node, "the number is not finite")
        return value


class _Fault(yaml.MarkedYAMLError):
    """YAML that is not accepted."""

    def __init__(self, at: Event | Node, problem: str) -> None:
        super().__init__(problem=problem, problem_mark=at.start_mark)  # type: ignore[arg-type]


def _check(node: Node, sizes: dict[Node, int], parents: set[Node]) -> int:
    """Return the number of values in a node after its aliases are replaced by copies."""
    if node in parents:
        raise _Fault(node, "an anchor contains an alias of itself")
    if node in sizes:
        return sizes[node]
    children: list[Node] = []
    if isinstance(node, MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, SequenceNode):
        children = node.value
    sizes[node] = 1 + sum(_check(child, sizes, parents | {node}) for child in children)
    if sizes[node] > MAX_VALUES:
        raise _Fault(node, f"more than {MAX_VALUES:,} values, because aliases repeat each other")
    return sizes[node]


def _check_keys(node: MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if isinstance(key, ScalarNode):
            if key.tag not in {_STRING, _MERGE}:
                raise _Fault(key, f"the key '{key.value[:60]}' is not text; put it in quotes")
            if (key.tag, key.value) in seen:
                raise _Fault(key, f"the key '{key.value[:60]}' occurs twice")
            seen.add((key.tag, key.value))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)
