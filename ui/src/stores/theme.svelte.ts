import { Persisted } from './persisted.svelte';

export type Theme = 'system' | 'light' | 'dark';
const THEMES: Theme[] = ['system', 'light', 'dark'];

const chosen = new Persisted<Theme>('theme', 'system', (value): value is Theme => THEMES.includes(value as Theme));

class ThemeStore {
  get value(): Theme {
    return chosen.value;
  }

  set value(theme: Theme) {
    chosen.value = theme;
    this.apply();
  }

  next(): void {
    this.value = THEMES[(THEMES.indexOf(this.value) + 1) % THEMES.length] as Theme;
  }

  /** Without the attribute the system decides (`color-scheme: light dark` in app.css). */
  apply(): void {
    if (chosen.value === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen.value;
  }
}

export const theme = new ThemeStore();
