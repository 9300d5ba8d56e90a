import type { Component } from 'svelte';
import type { IconName } from './components/icons';

export interface PageProps {
  /** What follows the page's own path: "models/org/name" gives "org/name". */
  rest: string;
}

export interface Entry {
  /** The first part of the address after /ui/. */
  path: string;
  title: string;
  /** In the navigation, with the second key of its shortcut ("g m"). */
  nav?: { icon: IconName; key: string };
  /** Whether the address may go on: "models/<id>". */
  rest?: boolean;
  /** Its component is a file of its own, fetched when the page is first shown. */
  load: () => Promise<{ default: Component<PageProps> | Component }>;
}

/** Every page, in the order of the navigation; the first is the home page. See docs/ui.md. */
export const pages: readonly Entry[] = [
  {
    path: 'models',
    title: 'Models',
    nav: { icon: 'models', key: 'm' },
    rest: true,
    load: () => import('./routes/ModelsPage.svelte'),
  },
  {
    path: 'playground',
    title: 'Playground',
    nav: { icon: 'playground', key: 't' },
    load: () => import('./routes/PlaygroundPage.svelte'),
  },
  {
    path: 'activity',
    title: 'Activity',
    nav: { icon: 'activity', key: 'a' },
    load: () => import('./routes/ActivityPage.svelte'),
  },
  { path: 'logs', title: 'Logs', nav: { icon: 'logs', key: 'l' }, load: () => import('./routes/LogsPage.svelte') },
  {
    path: 'performance',
    title: 'Performance',
    nav: { icon: 'performance', key: 'e' },
    load: () => import('./routes/PerformancePage.svelte'),
  },
  {
    path: 'config',
    title: 'Configuration',
    nav: { icon: 'config', key: 'c' },
    load: () => import('./routes/ConfigPage.svelte'),
  },
];

/** The page at this path, and what follows its own part; undefined if there is none. */
export function pageAt(path: string): { page: Entry; rest: string } | undefined {
  const slash = path.indexOf('/');
  const first = slash < 0 ? path : path.slice(0, slash);
  const rest = slash < 0 ? '' : path.slice(slash + 1);
  const page = first ? pages.find((candidate) => candidate.path === first) : pages[0];
  return page && (!rest || page.rest) ? { page, rest } : undefined;
}
