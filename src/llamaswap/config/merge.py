"""Several configuration files to one tree, by llama-swap's rules for `-config-dir`.

Mappings merge, lists are put one behind the other, and a value that two files give must be the same in
both. What has an id (a model, a group …) belongs to one file alone. A key with nothing after its colon
says nothing, whatever another file says for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from llamaswap.config.decode import describe, is_null
from llamaswap.config.report import Path, Report, dotted
from llamaswap.config.tree import Entry, Map, Node, Scalar, Seq

BY_ID = frozenset({"models", "groups", "profiles", "selectors", "peers", "matrix"})
"""Top-level keys below which no two files may have the same child."""


def merge(roots: Iterable[tuple[str, Node]], report: Report) -> Node:
    """One tree of these (file name, tree); conflicts are reported where the later file has them."""
    whole: Node = Scalar(None, "", 1)
    for file, root in roots:
        if isinstance(root, Map) or is_null(root):
            whole = _merged(whole, root, (), file, root.line, report)
        else:
            report.error((), f"must be a mapping of keys such as models, got {describe(root)}", root.line)
    return whole


def _merged(old: Node, new: Node, path: Path, file: str, line: int, report: Report) -> Node:
    if is_null(new):
        return old
    if is_null(old):
        return new
    if isinstance(old, Map) and isinstance(new, Map):
        return _merged_maps(old, new, path, file, report)
    if isinstance(old, Seq) and isinstance(new, Seq):
        return Seq(old.items + new.items, old.line, old.weight + new.weight)
    if not _same(old, new):
        report.error(path, f'conflict at "{dotted(path)}": {file} sets a different value than a previous source', line)
    return old


def _merged_maps(old: Map, new: Map, path: Path, file: str, report: Report) -> Map:
    entries = dict(old.entries)
    for name, entry in new.entries.items():
        at = (*path, name)
        before = entries.get(name)
        if before is None:
            entries[name] = entry
        elif len(path) == 1 and path[0] in BY_ID:
            message = f'duplicate {path[0]} "{name}" found in {file} (already defined in another config source)'
            report.error(at, f"{message}: {report.place(before.line)}", entry.line)
        else:
            entries[name] = Entry(before.line, _merged(before.node, entry.node, at, file, entry.line, report))
    return Map(entries, old.line, old.weight + new.weight)


def _same(old: Node, new: Node) -> bool:
    if not (isinstance(old, Scalar) and isinstance(new, Scalar)):
        return False
    numbers = all(isinstance(n.value, int | float) and not isinstance(n.value, bool) for n in (old, new))
    return old.value == new.value and (numbers or type(old.value) is type(new.value))
