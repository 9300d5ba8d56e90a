import { soon } from './soon';

/** That requests have finished, and the newest one's id; the rows themselves are asked for by who shows them. */
class Activity {
  lastId = $state(0);
  /** Counts up, four times a second at most, when something finished or may have been missed. */
  version = $state(0);
  #newest = 0;
  #show = soon(() => {
    this.lastId = this.#newest;
    this.version += 1;
  }, 250);

  finished(id: number): void {
    this.#newest = Math.max(this.#newest, id);
    this.#show();
  }

  /** After a gap in the events: whoever shows rows should ask again. */
  resync(): void {
    this.#show();
  }
}

export const activity = new Activity();
