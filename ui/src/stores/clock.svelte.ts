import { createSubscriber } from 'svelte/reactivity';

/** The time (ms since the epoch), read reactively: whoever shows it is shown again each second. */
class Clock {
  #subscribe = createSubscriber((update) => {
    const timer = setInterval(update, 1000);
    return () => clearInterval(timer);
  });

  get now(): number {
    this.#subscribe();
    return Date.now();
  }
}

export const clock = new Clock();
