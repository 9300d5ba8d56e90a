"""Names to models: ids, aliases and the paths under /upstream."""

from __future__ import annotations

from difflib import get_close_matches
from urllib.parse import unquote, unquote_to_bytes

from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import ModelNotFound

NEAREST_SHOWN = 3
"""Suggestions in a "not found" message."""
QUOTED_NAME_CHARS = 200
"""A wrong name is echoed up to this length: it is the client's text and may be long."""


class Catalogue:
    """All names under which a model can be asked for. Immutable, made anew from each Config."""

    def __init__(self, config: Config) -> None:
        self._by_name: dict[str, ModelConfig] = {}
        for model in config.models.values():
            for alias in model.aliases:
                self._by_name[alias] = model
        # An id wins over another model's alias.
        self._by_name.update(config.models)
        self._listed = sorted(id for id, model in config.models.items() if not model.unlisted)
        self._most_slashes = max((name.count("/") for name in self._by_name), default=0)

    def get(self, name: str) -> ModelConfig | None:
        """The model with this id or alias (case matters), if there is one."""
        return self._by_name.get(name)

    def resolve(self, name: str) -> ModelConfig:
        """The model with this id or alias; `ModelNotFound`, naming the nearest known, if none is."""
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFound(self._not_found(name))
        return model

    def split_path(self, path: str) -> tuple[ModelConfig, str, str] | None:
        """`<model>/<rest>`, what follows `/upstream/` in a path, as (model, name as written, rest).

        `path` is raw: percent-encoded and without its query. Names may hold slashes (encoded or not):
        the longest that ends at a slash or at the path's end wins. `rest` is kept as written and
        begins with its slash; it is "" if nothing follows the name. None if no model is named.
        """
        # Only as many segments as a name can have: the path is the client's and may be all slashes.
        end = -1
        ends: list[int] = []
        while len(ends) <= self._most_slashes:
            end = path.find("/", end + 1)
            if end < 0:
                ends.append(len(path))
                break
            ends.append(end)
        for end in reversed(ends):
            written = path[:end]
            model = self._by_name.get(_decoded(written))
            if model is not None:
                return model, written, path[end:]
        return None

    def _not_found(self, name: str) -> str:
        shown = name if len(name) <= QUOTED_NAME_CHARS else f"{name[:QUOTED_NAME_CHARS]}…"
        if not self._listed:
            return f"model '{shown}' not found; no models are configured"
        nearest = self._nearest(name[:QUOTED_NAME_CHARS])
        if nearest:
            return f"model '{shown}' not found; nearest: {', '.join(nearest)}"
        some = ", ".join(self._listed[:NEAREST_SHOWN])
        more = ", …" if len(self._listed) > NEAREST_SHOWN else ""
        return f"model '{shown}' not found; known models: {some}{more}"

    def _nearest(self, name: str) -> list[str]:
        """Listed ids whose id or alias looks like `name`, best first."""
        listed = {known.casefold(): model.id for known, model in self._by_name.items() if not model.unlisted}
        close = get_close_matches(name.casefold(), listed, n=2 * NEAREST_SHOWN, cutoff=0.5)
        return list(dict.fromkeys(listed[known] for known in close))[:NEAREST_SHOWN]


def _decoded(written: str) -> str:
    """A percent-encoded name as text; bytes that came unencoded (as latin-1) are taken for UTF-8."""
    if "%" not in written and written.isascii():
        return written
    try:
        return unquote_to_bytes(written.encode("latin-1")).decode()
    except UnicodeError:
        return unquote(written)
