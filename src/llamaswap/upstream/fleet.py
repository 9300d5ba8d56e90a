"""The fleet: owns the scheduler and one task per running process, and carries out what is decided.

The scheduler alone holds every model's state. The fleet calls it synchronously, applies the effects it
returns in order, and reports READY and EXITED back; nothing here waits between a question and the
change that follows from the answer.

A process that ends by itself (a crash, a start that took too long, one that no longer listens) has EXITED
for the scheduler at once, so that nobody is sent there any more; the fleet then calls it *leaving* until
nothing of it is left, and holds back those starts that would need its place.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from itertools import count
from math import inf

import trio

from llamaswap.config.diff import same_process
from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import NotStarted, StartFailed
from llamaswap.observe.logs import Logs
from llamaswap.observe.modellog import Observers
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import Event, State
from llamaswap.routing.policy import EvictionPolicy, GroupPolicy, LoadedModel
from llamaswap.routing.scheduler import Effect, Grant, ModelView, Reject, Scheduler, Start, Stop
from llamaswap.upstream.lease import Lease, Upstream
from llamaswap.upstream.process import Control, Exit, Launcher, ProcessLauncher, first_of
from llamaswap.upstream.run import Run

__all__ = ["Fleet", "Lease", "ModelView", "Upstream"]

log = logging.getLogger("llamaswap.upstream")

CONDEMNED_STOP_S = 2.0  # from TERM to KILL for a process that no longer listens: its clients wait
_generations = count(1)


class Fleet:
    """All models of one configuration. Everything but `run` may be called from any task of its loop."""

    def __init__(
        self,
        config: Config,
        catalogue: Catalogue,
        logs: Logs,
        *,
        launcher: Launcher | None = None,
        policy: EvictionPolicy | None = None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._logs = logs
        self._launcher: Launcher = launcher if launcher is not None else ProcessLauncher()
        self._policy = policy if policy is not None else GroupPolicy(config)
        self._scheduler = Scheduler(config, self._policy)
        self._runs: dict[str, Run] = {}
        self._leaving: list[Run] = []
        self._nursery: trio.Nursery | None = None
        self._nap = trio.CancelScope()
        self._listeners: list[Callable[[str], None]] = []
        self.observers = Observers()
        """Who hears of starts, loads, stops and failures; append to it."""
        self._closing = False
        self._progress = trio.Event()
        """While shutting down: a lease was released or a process ended."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold all processes until cancelled; `started()` when models can be leased.

        Cancelled, it rejects who waits, kills what runs (within a bound) and leaves nothing.
        """
        async with self._launcher.session(), trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await self._reap_idle()
            finally:
                self._nursery = None
                self._refuse()

    # -- requests

    def submit(self, model: ModelConfig, *, since: float | None = None, exempt: bool = False) -> Lease:
        """Ask for a model. Synchronous; never raises: a rejection shows in the lease.

        `since`: the `submitted_at` of the request's earlier lease, so that it keeps its place. `exempt`: of
        the model's concurrencyLimit. Whoever calls this must release the lease, whatever comes.
        """
        lease = Lease(self, model.id, since, exempt)
        effects = self._scheduler.submit(lease, trio.current_time())
        if lease.state == "granted" and len(effects) == 1:
            lease.settle(self._runs[model.id].upstream)
        else:
            self._apply(effects)
        return lease

    def claim(self, model: ModelConfig) -> Lease | None:
        """A granted lease if the request may go at once, else None: ask with `submit` then. Synchronous."""
        lease = Lease(self, model.id, None, False)
        if not self._scheduler.claim(lease, trio.current_time()):
            return None
        lease.settle(self._runs[model.id].upstream)
        return lease

    def position(self, lease: Lease) -> int:
        """See `Lease.queue_position`."""
        if lease.state != "queued" or self._scheduler.view(lease.model).state is State.STARTING:
            return 0  # nobody is before it any more
        return self._scheduler.position(lease)

    def release(self, lease: Lease) -> None:
        """See `Lease.release`."""
        if lease.state == "released":
            return
        now = trio.current_time()
        effects = self._scheduler.release(lease, now)
        if effects:
            self._apply(effects)
        else:
            model = self._config.models.get(lease.model)
            if model is not None and self._nap.deadline > now + model.ttl_s > now:
                self._set_alarm()
        if self._closing:
            self._progress.set()

    @asynccontextmanager
    async def lease(self, model: ModelConfig) -> AsyncIterator[Upstream]:
        """Hold a model for a block. Raises the SwapError of a rejection. Cancel-safe."""
        lease = self.submit(model)
        try:
            yield await lease.wait()
        finally:
            lease.release()

    async def preload(self, model_id: str) -> float:
        """Have a model (id or alias) ready; a waiter like any other. How long its process took to be ready.

        Raises SwapError. Cancelled, it no longer wants it.
        """
        lease = self.submit(self._catalogue.resolve(model_id), exempt=True)
        try:
            return (await lease.wait()).load_s or 0.0
        finally:
            lease.release()

    def begin_load(self, model_id: str) -> None:
        """As `preload`, but nobody waits for it: synchronous. Raises SwapError if it is refused at once."""
        lease = self.submit(self._catalogue.resolve(model_id), exempt=True)
        if lease.error is not None:
            raise lease.error
        token = trio.lowlevel.current_trio_token()
        lease.on_settled = lambda _: token.run_sync_soon(lease.release)  # not amid the effects that settle it
        if lease.granted:
            lease.release()

    def condemn(self, upstream: Upstream) -> None:
        """This process runs but no longer serves: no more requests for it, end it. Synchronous.

        Requests that wait for the model start it again once it has stopped. A process that is already
        ending is left alone.
        """
        model_id = upstream.model.id
        run = self._runs.get(model_id)
        if run is None or run.upstream is not upstream or run.stop_ordered:
            return
        log.warning("%s runs but no longer accepts connections; stopping it", model_id)
        upstream.alive = False
        run.control.stop(min(CONDEMNED_STOP_S, upstream.model.unload_timeout_s))
        self._leaves(run)

    # -- control

    def view(self, model_id: str) -> ModelView:
        """A snapshot of one model; KeyError if there is none of this id."""
        return self._scheduler.view(model_id)

    def current(self, model_id: str) -> Upstream | None:
        """The model's process as requests see it, if it is ready; no claim on it."""
        run = self._runs.get(model_id)
        ready = run is not None and self._scheduler.view(model_id).state is State.READY
        return run.upstream if run is not None and ready else None

    def pid(self, model_id: str) -> int | None:
        """Of the model's process, which leads its own session and group; None while there is none."""
        run = self._runs.get(model_id)
        return run.control.pid if run is not None else None

    def loading_s(self, model_id: str) -> float | None:
        """How long the model has been starting; None unless it is."""
        run = self._runs.get(model_id)
        starting = run is not None and self._scheduler.view(model_id).state is State.STARTING
        return trio.current_time() - run.upstream.begun if run is not None and starting else None

    def waiting_for(self, model_id: str) -> list[str]:
        """See `Scheduler.blockers`."""
        return self._scheduler.blockers(model_id)

    def views(self) -> list[ModelView]:
        """Snapshots of all models, in the order of the configuration, then of those that `removed` tells."""
        return [self._scheduler.view(id) for id in (*self._config.models, *self.removed())]

    def removed(self) -> dict[str, ModelConfig]:
        """Models that are no longer in the configuration but have a process still, by id."""
        return {id: run.upstream.model for id, run in self._runs.items() if id not in self._config.models}

    def on_change(self, fn: Callable[[str], None]) -> None:
        """Have `fn(model id)` called, synchronously, after each change of a model's state.

        It must not raise and must not call back into the fleet but to look.
        """
        self._listeners.append(fn)

    async def unload(self, model_ids: Collection[str] | None) -> None:
        """Stop these models (ids; None: all) at once, whatever is in flight; return when they have stopped.

        Who waits for them is rejected with ModelUnloaded. Cancelled, the stops go on.
        """
        ids = list(dict.fromkeys((*self._config.models, *self._runs) if model_ids is None else model_ids))
        runs = [self._runs[id] for id in ids if id in self._runs]
        runs += [run for run in self._leaving if run.upstream.model.id in ids]
        self._apply(self._scheduler.unload(ids, trio.current_time()))
        for run in runs:
            await run.gone.wait()

    async def shutdown(self, grace_s: float) -> None:
        """Reject who waits, let requests in flight end for `grace_s`, stop all; return when nothing runs.

        A model without requests is stopped at once, all of them side by side. Cancelled, it leaves
        the rest to the cancellation of `run`.
        """
        self._refuse()
        deadline = trio.current_time() + grace_s
        while self._runs or self._leaving:
            late = trio.current_time() >= deadline
            idle = [id for id in self._runs if late or self._scheduler.view(id).in_flight == 0]
            if self._progress.is_set():
                self._progress = trio.Event()
            self._apply(self._scheduler.unload(idle, trio.current_time()))
            with trio.move_on_at(inf if late else deadline):
                await self._progress.wait()

    def _refuse(self) -> None:
        if not self._closing:
            self._closing = True
            self._apply(self._scheduler.shutdown(trio.current_time()))
            for model_id in dict.fromkeys((*self._config.models, *self._runs)):
                self._tell(model_id)

    # -- another configuration

    def reconfigure(self, config: Config, catalogue: Catalogue) -> None:
        """From now on these models. Synchronous; processes that can serve them keep running, with their requests.

        One that cannot, or whose model is gone, ends when its requests have; see `Scheduler.reconfigure`.
        """
        self._config, self._catalogue, self._policy = config, catalogue, GroupPolicy(config)
        for model_id, run in self._runs.items():
            model = config.models.get(model_id)
            if model is not None and same_process(run.upstream.model, model):
                run.adopt(model)
        self._logs.retain({*config.models, *self._runs, *(run.upstream.model.id for run in self._leaving)})
        self._apply(self._scheduler.reconfigure(config, self._policy, trio.current_time()))

    def ports(self) -> dict[str, int]:
        """Model id -> `${PORT}` of every process there is, whatever the configuration says of it by now."""
        runs = [*self._leaving, *self._runs.values()]
        return {run.upstream.model.id: run.upstream.model.port for run in runs if run.upstream.model.port is not None}

    # -- carrying out

    def _apply(self, effects: Iterable[Effect]) -> None:
        changed: list[str] = []
        for effect in effects:
            match effect:
                case Grant(ticket=Lease() as lease):
                    lease.settle(self._runs[lease.model].upstream)
                case Reject(ticket=Lease() as lease):
                    lease.settle(None)
                case Start(model=model):
                    self._start(model)
                    changed.append(model)
                case Stop():
                    self._runs[effect.model].stop(effect)
                    changed.append(effect.model)
        self._set_alarm()
        for model in changed:
            self._tell(model)

    def _start(self, model_id: str) -> None:
        assert self._nursery is not None and model_id not in self._runs
        model = self._config.models[model_id]
        log.info("starting %s", model_id)
        run = Run(Upstream(model, model.proxy, next(_generations), trio.current_time()), Control())
        run.control.ready = lambda: self._ready(run)
        run.control.ending = lambda error: self._ending(run, error)
        self._runs[model_id] = run
        self._nursery.start_soon(self._run_model, run, name=f"model {model_id}")
        self.observers.started(model_id)

    async def _run_model(self, run: Run) -> None:
        """Exists exactly while the process does."""
        model = run.upstream.model
        error: NotStarted | None = None
        exit: Exit | None = None
        try:
            for old in self._in_the_way(model.id):
                await first_of(old.gone.wait, run.control.stop_asked.wait)
            if not run.control.stop_asked.is_set():
                exit = await self._launcher.run(model, self._logs.model(model.id), run.control)
        except NotStarted as failure:
            error = failure
        except Exception as failure:  # a task boundary: one model's trouble is not the others'
            log.exception("running %s failed", model.id)
            error = StartFailed(f"model '{model.id}' could not be run: {failure!r}")
        finally:
            if trio.current_effective_deadline() == -inf:
                self._refuse()  # cancelled: nothing is started in its place
            self._gone(run, exit, error)

    def _in_the_way(self, model_id: str) -> list[Run]:
        places = {LoadedModel(run.upstream.model.id, State.STOPPING) for run in self._leaving}
        victims = self._policy.victims(model_id, places) | {model_id}
        return [run for run in self._leaving if run.upstream.model.id in victims]

    # -- what processes report

    def _ready(self, run: Run) -> None:
        if not run.stop_ordered:
            run.served = True
            run.upstream.load_s = load_s = trio.current_time() - run.upstream.begun
            log.info("%s is ready after %.2f s", run.upstream.model.id, load_s)
            self.observers.ready(run.upstream.model.id, load_s)
        self._report(run.upstream.model.id, Event.READY)

    def _ending(self, run: Run, error: NotStarted | None) -> None:
        if error is None:
            run.upstream.end()
        elif not run.stop_ordered:
            log.warning("%s", error)
        if not run.stop_ordered and run not in self._leaving:
            if error is not None:
                run.tell_end(self.observers, None, error)
            self._leaves(run, error)

    def _leaves(self, run: Run, error: NotStarted | None = None) -> None:
        """Nobody is to be sent there any more, although the process is not quite gone."""
        model_id = run.upstream.model.id
        self._leaving.append(self._runs.pop(model_id))
        self._report(model_id, Event.EXITED, error)

    def _gone(self, run: Run, exit: Exit | None, error: NotStarted | None) -> None:
        model_id = run.upstream.model.id
        run.upstream.end()
        if error is not None:
            if not run.stop_ordered and run not in self._leaving:
                log.warning("%s", error)
        elif exit is None or run.control.stop_asked.is_set():
            log.info("%s has stopped%s", model_id, f" ({exit})" if exit else "")
        else:
            said = f"; last output:\n{exit.output}" if exit.output else ""
            run.upstream.fate = f"{exit}{said}"
            log.warning("%s exited by itself with %s", model_id, run.upstream.fate)
        run.tell_end(self.observers, exit, error)
        if run in self._leaving:
            self._leaving.remove(run)
        else:
            del self._runs[model_id]
            self._report(model_id, Event.EXITED, error)
        run.gone.set()
        run.upstream.gone.set()
        self._progress.set()

    def _report(self, model_id: str, event: Event, error: NotStarted | None = None) -> None:
        self._apply(self._scheduler.process_changed(model_id, event, trio.current_time(), error))
        self._tell(model_id)

    # -- time

    async def _reap_idle(self) -> None:
        """Wake the scheduler whenever it has something to do: a ttl that ran out, a request that waited long."""
        while True:
            with trio.CancelScope() as self._nap:
                self._set_alarm()
                await trio.sleep_forever()
            self._apply(self._scheduler.tick(trio.current_time()))

    def _set_alarm(self) -> None:
        due = self._scheduler.next_deadline()
        self._nap.deadline = inf if due is None else due

    # -- small things

    def _tell(self, model_id: str) -> None:
        for fn in self._listeners:
            fn(model_id)
