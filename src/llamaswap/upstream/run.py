"""What the fleet keeps of one running process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import trio

from llamaswap.config.settings import ModelConfig
from llamaswap.errors import NotStarted
from llamaswap.observe.modellog import ModelObserver
from llamaswap.routing.scheduler import Stop
from llamaswap.upstream.lease import Upstream
from llamaswap.upstream.process import Control, Exit

log = logging.getLogger("llamaswap.upstream")


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

    def stop(self, why: Stop) -> None:
        """The scheduler wants it to end."""
        self.stop_ordered = True
        self.upstream.stopped_by, self.stopped_for = why.reason, why.for_model
        match why.reason:
            case "swap":
                log.info("evicting %s for %s", why.model, why.for_model)
            case "ttl":
                log.info("unloading %s: idle for %g s", why.model, self.upstream.model.ttl_s)
            case "unload":
                log.info("unloading %s", why.model)
            case "reload":
                log.info("stopping %s: a reload has changed or removed it", why.model)
            case "shutdown":
                log.info("stopping %s", why.model)
        self.control.stop()

    def adopt(self, model: ModelConfig) -> None:
        """Go by these settings from now on; the process can serve them (`same_process`)."""
        self.upstream.model = self.control.model = model

    def tell_end(self, observers: ModelObserver, exit: Exit | None, error: NotStarted | None) -> None:
        """Tell the observers how it ended, unless they know. No exit and no error: it was cancelled."""
        if self.told:
            return
        self.told = True
        if error is not None:
            error.after_s = trio.current_time() - self.upstream.begun
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
