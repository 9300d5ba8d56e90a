/** Reasoning that a model writes into its answer between tags, for servers that do not tell it apart themselves. */

const PAIRS = [
  ['<think>', '</think>'],
  ['<thinking>', '</thinking>'],
  ['<thought>', '</thought>'],
  ['<reasoning>', '</reasoning>'],
  ['[THINK]', '[/THINK]'],
  ['<seed:think>', '</seed:think>'],
] as const;

export interface Thought {
  reasoning: string;
  answer: string;
  /** Whether the reasoning goes on: its end tag has not come. */
  open: boolean;
}

/**
 * Split what has come so far. The tag counts only at the beginning. An end tag alone counts if it closes a line, for some
 * templates put the opening one into the prompt. While `more` may come, a tag that has only half arrived is held back.
 */
export function splitThinking(text: string, more: boolean): Thought {
  const begin = text.length - text.trimStart().length;
  const rest = text.slice(begin);
  for (const [opening, closing] of PAIRS) {
    if (!rest.startsWith(opening)) continue;
    const from = begin + opening.length;
    const end = text.indexOf(closing, from);
    if (end < 0) return { reasoning: withoutPart(text.slice(from), closing, more).trimStart(), answer: '', open: more };
    return { reasoning: text.slice(from, end).trim(), answer: text.slice(end + closing.length).trimStart(), open: false };
  }
  if (more && rest && PAIRS.some(([opening]) => opening.startsWith(rest))) return { reasoning: '', answer: '', open: false };
  const lone = text.search(/(?:^|\n)[ \t]*<\/think>[ \t]*(?:\n|$)/);
  if (lone >= 0 && !text.slice(0, lone).includes('```')) {
    const end = text.indexOf('</think>', lone) + '</think>'.length;
    return { reasoning: text.slice(0, lone).trim(), answer: text.slice(end).trimStart(), open: false };
  }
  return { reasoning: '', answer: text, open: false };
}

/** `text` without the beginning of `tag` that it ends with. */
function withoutPart(text: string, tag: string, more: boolean): string {
  if (more) {
    for (let length = Math.min(tag.length - 1, text.length); length > 0; length -= 1) {
      if (text.endsWith(tag.slice(0, length))) return text.slice(0, -length);
    }
  }
  return text;
}
