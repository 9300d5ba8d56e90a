/** A captured request as a command for a POSIX shell. */

const REDACTED = '[REDACTED]';
/** What curl or the connection sets by itself. */
const LEFT_OUT = new Set([
  'host', 'content-length', 'connection', 'keep-alive', 'transfer-encoding', 'accept-encoding', 'te', 'trailer', 'upgrade',
  'expect', 'proxy-connection', 'proxy-authorization', 'cookie', 'origin', 'referer',
]); // prettier-ignore

/** One word of a shell's command line that means `text` and nothing else. */
export function quote(text: string): string {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * The command. A credential that was not kept becomes `$API_KEY`, for the shell to fill in; `body` null: it was not kept, or
 * is no text, and is read from the file `body`.
 */
export function toCurl(url: string, headers: readonly (readonly [string, string])[], body: string | null): string {
  const words = [`curl${body && /"stream"\s*:\s*true/.test(body) ? ' -N' : ''} ${quote(url)}`];
  for (const [name, value] of headers) {
    if (LEFT_OUT.has(name.toLowerCase()) || name.startsWith(':') || /^(sec-|x-forwarded-)/i.test(name)) continue;
    if (value !== REDACTED) words.push(`-H ${quote(value ? `${name}: ${value}` : `${name};`)}`);
    else words.push(`-H "${name}: ${/^authorization$/i.test(name) ? 'Bearer ' : ''}$API_KEY"`);
  }
  words.push(body === null ? '--data-binary @body' : `--data-raw ${quote(body)}`);
  return words.join(' \\\n  ');
}
