// Builds the UI into the Python package (or into $UI_OUT), with .br and .gz beside what is worth compressing.
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { build } from 'vite';

const ui = fileURLToPath(new URL('..', import.meta.url));
const target = resolve(process.env.UI_OUT ?? join(ui, '../src/llamaswap/_ui'));
const out = mkdtempSync(join(tmpdir(), 'llamaswap-ui-')); // the target is not without a UI while this one is built
process.on('exit', () => rmSync(out, { recursive: true, force: true }));
const BUDGET_BYTES = 120 * 1024; // of gzipped JavaScript before the first lazy chunk

await build({ root: ui, logLevel: 'warn', build: { outDir: out, emptyOutDir: false } });

const sizes = new Map();
for (const entry of readdirSync(out, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath, entry.name);
  if (!entry.isFile() || !/\.(js|css|html|svg|json|txt)$/.test(path)) continue;
  const data = readFileSync(path);
  const packed = gzipSync(data, { level: 9 });
  sizes.set(path.slice(out.length + 1), packed.length);
  if (data.length < 512) continue;
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: data.length };
  writeFileSync(`${path}.br`, brotliCompressSync(data, { params }));
  writeFileSync(`${path}.gz`, packed);
}

const index = readFileSync(join(out, 'index.html'), 'utf8');
const first = [...sizes].filter(([path]) => path.endsWith('.js') && index.includes(path));
const total = first.reduce((sum, [, size]) => sum + size, 0);
const kb = (bytes) => `${(bytes / 1024).toFixed(1)} kB`;
for (const [path, size] of [...sizes].sort((a, b) => b[1] - a[1])) console.log(`${kb(size).padStart(9)} gzip  ${path}`);
console.log(`first load: ${kb(total)} gzip of JavaScript`);
if (total > BUDGET_BYTES) {
  console.error(`that is more than the ${kb(BUDGET_BYTES)} agreed`);
  process.exit(1);
}

mkdirSync(target, { recursive: true });
for (const name of readdirSync(target)) if (name !== '.gitkeep') rmSync(join(target, name), { recursive: true });
cpSync(out, target, { recursive: true });
