export interface Pattern {
  /** Null while there is no (valid) pattern. */
  regex: RegExp | null;
  /** Why it is not valid, in the browser's words. */
  error: string;
}

/** A regular expression as typed; ignores case unless it holds a capital letter. */
export function compile(source: string): Pattern {
  if (!source) return { regex: null, error: '' };
  try {
    const cased = /[A-Z]/.test(source.replace(/\\./g, ''));
    return { regex: new RegExp(source, cased ? 'g' : 'gi'), error: '' };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { regex: null, error: message.replace(/^Invalid regular expression: (\/.*\/[a-z]*: )?/, '') };
  }
}

/** Where the pattern matches; at most `limit` places, empty matches left out. */
export function matches(regex: RegExp, text: string, limit = 200): [number, number][] {
  const found: [number, number][] = [];
  regex.lastIndex = 0;
  for (let match = regex.exec(text); match && found.length < limit; match = regex.exec(text)) {
    if (match[0]) found.push([match.index, match.index + match[0].length]);
    else regex.lastIndex += 1;
  }
  return found;
}
