import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { pageAt } from './routes';
import { router } from './stores/router.svelte';
import { shortcuts } from './stores/shortcuts.svelte';
import { stream } from './stores/stream.svelte';
import { theme } from './stores/theme.svelte';

void pageAt(router.path)?.page.load(); // its file comes while the shell is drawn
theme.apply();
router.start();
shortcuts.start();
void stream.run();
mount(App, { target: document.getElementById('app') as HTMLElement });
