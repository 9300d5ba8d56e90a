/** What can be tried with a model, from its capabilities. */
import type { Capabilities } from '../types';

export const TABS = [
  { id: 'chat', label: 'Chat' },
  { id: 'completion', label: 'Completion' },
  { id: 'embeddings', label: 'Embeddings' },
  { id: 'rerank', label: 'Rerank' },
  { id: 'speech', label: 'Speech' },
  { id: 'transcription', label: 'Transcription' },
  { id: 'images', label: 'Images' },
] as const;
export type TabId = (typeof TABS)[number]['id'];

/**
 * The tabs of a model, the likeliest first. Without declared capabilities it may be anything: all. With them, text needs no
 * flag (there is none for it), so that a model with a special gift alone is taken to have only that.
 */
export function tabsFor(capabilities: Capabilities | undefined): readonly (typeof TABS)[number][] {
  if (!capabilities) return TABS;
  const special: TabId[] = [];
  if (capabilities.reranker) special.push('rerank');
  if (capabilities.audio_speech) special.push('speech');
  if (capabilities.audio_transcriptions) special.push('transcription');
  if (capabilities.image_generation || capabilities.image_to_image) special.push('images');
  const talks = capabilities.vision || capabilities.function_calling;
  // Audio in and text out is a transcriber, or a chat model that listens: the flags do not say.
  const text: TabId[] = talks || capabilities.audio_transcriptions ? ['chat', 'completion'] : ['chat', 'completion', 'embeddings'];
  const ids = talks ? [...text, ...special] : special.length ? (capabilities.audio_transcriptions ? [...special, ...text] : special) : text;
  return ids.map((id) => TABS.find((tab) => tab.id === id) as (typeof TABS)[number]);
}

/** Whether pictures may be attached: said so, or nothing said at all. */
export function takesPictures(capabilities: Capabilities | undefined): boolean {
  return !capabilities || capabilities.vision === true;
}
