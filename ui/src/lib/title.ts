/** The window's title: what a glance at a row of tabs should tell. */
export function pageTitle(now: {
  page: string;
  connection: 'connecting' | 'live' | 'lost' | 'locked';
  loading: number;
  requests: number;
}): string {
  const name = `${now.page} · llamaswap`;
  if (now.connection === 'lost') return `⚠ offline · ${name}`;
  if (now.connection === 'locked') return `⚠ key wanted · ${name}`;
  const parts = [];
  if (now.loading) parts.push('◐ loading');
  if (now.requests) parts.push(`▶ ${now.requests}`);
  return parts.length ? `${parts.join(' ')} · ${name}` : name;
}
