"""`routing:` and the older top-level `groups:`: which models may run together, and who is served next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llamaswap.config.decode import is_null
from llamaswap.config.report import Path, Report, nearest
from llamaswap.config.settings import DEFAULT_GROUP_ID, Group
from llamaswap.config.tree import Map, Node

UNSUPPORTED = "is not supported by this version; remove it, or use llama-swap for this file"
Resolve = Callable[[str], str | None]
"""Model id of an id or alias."""

_ROUTER: Path = ("routing", "router")
_SETTINGS: Path = (*_ROUTER, "settings")


def is_empty(node: Node | None) -> bool:
    return node is None or is_null(node) or (isinstance(node, Map) and not node.entries)


def check_refused(root: Mapping[str, Any], report: Report) -> None:
    """Report the top-level keys that would change routing in a way this version cannot."""
    if root["groups"] and not is_empty(root["matrix"]):
        report.error(("matrix",), "config cannot use both 'groups' and 'matrix'; keep groups")
    for name in ("matrix", "peers", "selectors"):
        if not is_empty(root[name]):
            report.error((name,), UNSUPPORTED)
    profiles = root["profiles"]
    if isinstance(profiles, Map) and any(isinstance(e.node, Map) for e in profiles.entries.values()):
        report.error(("profiles",), f"a profile with pins {UNSUPPORTED}")
    elif not is_empty(profiles):
        report.warn(("profiles",), "lists of models have no effect; use groups")


def read_groups(root: Mapping[str, Any], models: Iterable[str], resolve: Resolve, report: Report) -> dict[str, Group]:
    """The groups in effect, in the file's order."""
    router = root["routing"]["router"]
    settings = router["settings"]
    path: Path = (*_SETTINGS, "groups")
    raw: dict[str, Any] = settings["groups"]
    stated = (*_ROUTER, "use") in report.lines and router["use"] != ""
    use = router["use"] or "group"
    if use not in ("group", "matrix"):
        report.error((*_ROUTER, "use"), f'routing.router.use: unknown router "{use}" (valid: group, matrix); use group')
    elif use == "matrix":
        report.error((*_ROUTER, "use"), f"the router 'matrix' {UNSUPPORTED}")
    matrix: Path = (*_SETTINGS, "matrix")
    if not is_empty(settings["matrix"]):
        if stated and use == "group":
            report.warn(matrix, "has no effect, because routing.router.use is 'group'")
        else:
            report.error(matrix, UNSUPPORTED)
    old = root["groups"] or not is_empty(root["matrix"])
    if old and (stated or raw or not is_empty(settings["matrix"])):
        name = "groups" if root["groups"] else "matrix"
        report.error(
            (name,),
            f"config uses both the older top-level '{name}' and 'routing.router'; move it to "
            f"routing.router.settings.{name} and remove the top-level key",
        )
    if root["groups"]:
        path, raw = ("groups",), root["groups"]
    return _check(raw, path, set(models), resolve, report)


def _check(raw: Mapping[str, Any], path: Path, models: set[str], resolve: Resolve, report: Report) -> dict[str, Group]:
    used_in: dict[str, str] = {}
    groups: dict[str, Group] = {}
    for group_id, values in raw.items():
        if group_id == DEFAULT_GROUP_ID:
            report.error((*path, group_id), f"{group_id!r} is the group of models in no group; rename it")
        members: list[str] = []
        for i, member in enumerate(values["members"]):
            at = (*path, group_id, "members", i)
            if report.failed(at):
                continue
            if member in members:
                report.error(at, f"duplicate model member {member} found in group: {group_id}; keep one")
            elif member in used_in:
                groups_ = f"{used_in[member]} and {group_id}"
                report.error(at, f"model member {member} is used in multiple groups: {groups_}; keep one")
            elif member not in models:
                report.error(at, f'no model config for "{member}" in group {group_id}{_hint(member, models, resolve)}')
            else:
                used_in[member] = group_id
                members.append(member)
        groups[group_id] = Group(
            id=group_id,
            swap=values["swap"],
            exclusive=values["exclusive"],
            persistent=values["persistent"],
            members=tuple(members),
        )
    return groups


def _hint(name: str, models: set[str], resolve: Resolve) -> str:
    real = resolve(name)
    if real:
        return f"; it is an alias, write the model's id {real!r}"
    close = nearest(name, models)
    return f"; did you mean {close!r}?" if close else "; members are ids under models"


def read_priorities(root: Mapping[str, Any], models: Iterable[str], resolve: Resolve, report: Report) -> dict[str, int]:
    """Model id -> priority. A priority given for the id itself wins over one for an alias."""
    scheduler = root["routing"]["scheduler"]
    path: Path = ("routing", "scheduler")
    if scheduler["use"] not in ("", "fifo"):
        report.error(
            (*path, "use"),
            f'routing.scheduler.use: unknown scheduler "{scheduler["use"]}" (valid: fifo); use fifo',
        )
    path = (*path, "settings", "fifo", "priority")
    known = set(models)
    priorities: dict[str, int] = {}
    for name, priority in scheduler["settings"]["fifo"]["priority"].items():
        real = resolve(name)
        if real is None:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            message = f'routing.scheduler.settings.fifo.priority references unknown model "{name}"{hint}'
            report.error((*path, name), message)
        elif name == real or real not in priorities:
            priorities[real] = priority
    return priorities
