const FLUSH_MS = 100; // ten drawings a second are smooth enough for numbers and logs, and cheap

/** `run`, at most once in `ms`: calls in between are one call at the end. For what events change in bursts. */
export function soon(run: () => void, ms = FLUSH_MS): () => void {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      run();
    }, ms);
  };
}
