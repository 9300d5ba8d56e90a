"""What the fleet keeps of one running process."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from llamaswap.errors import NotStarted
from llamaswap.observe.modellog import ModelObserver
from llamaswap.upstream.lease import Upstream
from llamaswap.upstream.process import Control, Exit


@dataclass(eq=False, slots=True)
class Run:
    """One process, from the decision to start it until nothing of it is left."""

    upstream: Upstream
    control: Control
    gone: trio.Event = field(default_factory=trio.Event)
    stop_ordered: bool = False
    """By the scheduler, which is then owed an EXITED."""
    stopped_for: str | None = None
    """The model that takes its place, if it is evicted."""
    served: bool = False
    """It has been ready."""
    told: bool = False
    """The observers know how it ended."""

    def tell_end(self, observers: ModelObserver, exit: Exit | None, error: NotStarted | None) -> None:
        """Tell the observers how it ended, unless they know. No exit and no error: it was cancelled."""
        if self.told:
            return
        self.told = True
        model_id, reason = self.upstream.model.id, self.upstream.stopped_by
        if reason is not None:
            observers.stopped(model_id, reason, self.stopped_for)
        elif error is not None and not self.served:
            observers.failed(model_id, error)
        elif exit is not None:
            condemned = self.control.stop_asked.is_set()
            observers.crashed(model_id, None if condemned else exit.code, exit.output)
        elif error is not None:
            observers.crashed(model_id, None, error.output)
        else:
            observers.stopped(model_id, "shutdown", None)
