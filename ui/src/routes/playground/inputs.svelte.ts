import { isSettings, NO_SETTINGS, type Settings } from '../../lib/playground/settings';
import { Persisted } from '../../stores/persisted.svelte';

/** What is typed in the tabs: it stays while another one is looked at. */
export const inputs = $state({
  prompt: 'Once upon a time',
  first: 'The cat sleeps on the warm stove.',
  second: 'A kitten naps near the fire.',
  query: 'What is the capital of Finland?',
  documents: 'Helsinki is the capital and the largest city of Finland.\nFinland has about 188,000 lakes.\nStockholm is the capital of Sweden.',
  speech: 'The quick brown fox jumps over the lazy dog.',
  voice: '',
  format: 'mp3',
  language: '',
  hint: '',
  picture: 'A lighthouse on a cliff at dusk, oil painting',
  size: '1024x1024',
});

export const completionSettings = new Persisted<Settings>('playground.completion', { ...NO_SETTINGS, max_tokens: '128' }, isSettings);
