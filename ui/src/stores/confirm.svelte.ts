export interface Question {
  title: string;
  text: string;
  /** The button that goes ahead: "Unload". */
  action: string;
}

class Confirm {
  question = $state.raw<Question | null>(null);
  #answer: (yes: boolean) => void = () => undefined;

  /** Ask before something that cannot be undone; true if the person goes ahead. */
  ask(question: Question): Promise<boolean> {
    this.#answer(false);
    this.question = question;
    return new Promise((resolve) => (this.#answer = resolve));
  }

  answer(yes: boolean): void {
    this.question = null;
    this.#answer(yes);
    this.#answer = () => undefined;
  }
}

export const confirm = new Confirm();
