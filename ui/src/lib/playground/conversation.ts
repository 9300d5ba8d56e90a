/**
 * A conversation is a tree: each message knows what it answers, an edited question or another try at an answer is a sibling, and
 * `head` names the last message of the branch in sight. All functions leave what they are given as it is.
 */

export interface Picture {
  /** data:image/… */
  url: string;
  name: string;
}
export interface TextFile {
  name: string;
  text: string;
}

export interface Message {
  id: string;
  parent: string | null;
  role: 'user' | 'assistant';
  text: string;
  /** RFC 3339. */
  at: string;
  pictures?: Picture[];
  files?: TextFile[];
  reasoning?: string;
  /** The model that was asked. */
  model?: string;
  stats?: import('./reply').Stats;
  finish?: string;
  toolCalls?: { name: string; args: string }[];
  /** Why there is no more of it; `code` as the server gave it. */
  error?: { message: string; code: string };
  /** The person stopped it. */
  stopped?: boolean;
}

export interface Conversation {
  id: string;
  title: string;
  /** Whether a person named it: then it keeps its name. */
  named: boolean;
  created: string;
  updated: string;
  model: string;
  system: string;
  settings: import('./settings').Settings;
  messages: Message[];
  head: string | null;
}

/** The branch in sight, first message first. */
export function branch(conversation: Conversation): Message[] {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const path: Message[] = [];
  // A circle (an import that was tampered with) ends where it closes.
  const seen = new Set<string>();
  for (let at = conversation.head; at !== null && !seen.has(at); ) {
    const message = byId.get(at);
    if (!message) break;
    seen.add(at);
    path.push(message);
    at = message.parent;
  }
  return path.reverse();
}

export function siblings(conversation: Conversation, message: Message): Message[] {
  return conversation.messages.filter((other) => other.parent === message.parent && other.role === message.role);
}

/** Add a message at the end of the branch that its parent ends. */
export function withMessage(conversation: Conversation, message: Message): Conversation {
  return { ...conversation, messages: [...conversation.messages, message], head: message.id, updated: message.at };
}

/** Change a message in place. */
export function withChange(conversation: Conversation, id: string, change: Partial<Message>): Conversation {
  return { ...conversation, messages: conversation.messages.map((message) => (message.id === id ? { ...message, ...change } : message)) };
}

/** Put this message in sight, with the newest of what follows it. */
export function withHeadAt(conversation: Conversation, id: string): Conversation {
  let head = id;
  const seen = new Set<string>();
  while (!seen.has(head)) {
    seen.add(head);
    const next = conversation.messages.findLast((message) => message.parent === head);
    if (!next) break;
    head = next.id;
  }
  return { ...conversation, head };
}

/** Remove a message and all that follows it; a sibling comes in sight if there is one, else the message before. */
export function without(conversation: Conversation, id: string): Conversation {
  const gone = conversation.messages.find((message) => message.id === id);
  if (!gone) return conversation;
  const dead = new Set([id]);
  let size = 0;
  while (dead.size !== size) {
    size = dead.size;
    for (const message of conversation.messages) if (message.parent !== null && dead.has(message.parent)) dead.add(message.id);
  }
  const rest = { ...conversation, messages: conversation.messages.filter((message) => !dead.has(message.id)), head: gone.parent };
  const other = rest.messages.findLast((message) => message.parent === gone.parent && message.role === gone.role);
  return other ? withHeadAt(rest, other.id) : rest;
}

/** A title from what was asked first: one line, not too long. */
export function titleOf(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  const space = cut.lastIndexOf(' ');
  return `${space > 30 ? cut.slice(0, space) : cut}…`;
}

/** What the API is sent of the branch in sight. Reasoning stays here; empty answers too. */
export function apiMessages(conversation: Conversation): object[] {
  const list: object[] = conversation.system.trim() ? [{ role: 'system', content: conversation.system }] : [];
  for (const message of branch(conversation)) {
    if (message.role === 'assistant') {
      if (message.text) list.push({ role: 'assistant', content: message.text });
      continue;
    }
    const files = (message.files ?? []).map((file) => `File ${file.name}:\n${fenced(file.text)}`);
    const text = [...files, message.text].filter(Boolean).join('\n\n');
    const pictures = message.pictures ?? [];
    list.push({
      role: 'user',
      content: pictures.length
        ? [...pictures.map(({ url }) => ({ type: 'image_url', image_url: { url } })), ...(text ? [{ type: 'text', text }] : [])]
        : text,
    });
  }
  return list;
}

/** In a fence that is longer than any in the text. */
function fenced(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`{3,}/g)].map((match) => match[0].length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
