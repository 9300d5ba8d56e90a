const PREFIX = 'llamaswap.';

/** A setting that survives the tab, kept in localStorage as JSON; `valid` refuses what an older version left. */
export class Persisted<T> {
  #value = $state.raw() as T;

  constructor(
    private readonly key: string,
    initial: T,
    valid: (value: unknown) => value is T = (value): value is T => typeof value === typeof initial,
  ) {
    this.#value = initial;
    try {
      const stored: unknown = JSON.parse(localStorage.getItem(PREFIX + key) ?? 'null');
      if (stored !== null && valid(stored)) this.#value = stored;
    } catch {
      // No storage, or not ours: the initial value it is.
    }
  }

  get value(): T {
    return this.#value;
  }

  set value(value: T) {
    this.#value = value;
    try {
      localStorage.setItem(PREFIX + this.key, JSON.stringify(value));
    } catch {
      // Full or forbidden: the setting lasts as long as the page.
    }
  }
}
