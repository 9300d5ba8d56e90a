import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

/** The server that `npm run dev` shows the UI of: a real llamaswap, or `npm run fake`. */
const server = process.env.LLAMASWAP ?? 'http://127.0.0.1:8080';
const routes = ['/api', '/v1', '/v', '/logs', '/upstream', '/models', '/running', '/unload', '/health', '/metrics',
  '/sdapi', '/infill', '/completion', '/rerank', '/reranking', '/props', '/favicon.ico'];

export default defineConfig({
  base: '/ui/',
  plugins: [svelte()],
  build: {
    target: 'es2022',
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    assetsInlineLimit: 0, // the Content-Security-Policy allows no data: scripts or styles
  },
  server: {
    host: '127.0.0.1',
    proxy: Object.fromEntries(routes.map((path) => [`^${path}(/|\\?|$)`, { target: server, ws: false }])),
  },
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
