// node bundle.mjs OUTPUT_DIRECTORY: one script and one style sheet, with all of Grafana's libraries.
import { build } from 'esbuild';

await build({
  entryPoints: ['src/main.jsx'],
  outdir: process.argv[2],
  bundle: true,
  format: 'iife',
  jsx: 'transform',
  loader: { '.svg': 'dataurl', '.woff2': 'dataurl', '.png': 'dataurl', '.ttf': 'empty' },
  alias: { 'react-router-dom-v5-compat': 'react-router-dom' },
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  logLevel: 'warning',
});
