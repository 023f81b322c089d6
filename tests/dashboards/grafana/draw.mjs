// node draw.mjs '{"bundle": DIR, "dashboard": FILE, "prometheus": URL, "picture": FILE, ...}'
// Draws one dashboard in a real browser; prints what each panel says about itself, as JSON.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';

const wanted = JSON.parse(process.argv[2]);
const PAGE = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/main.css"><script>window.grafanaBootData = { settings: {}, user: {} };</script><div id="root"></div><script src="/main.js"></script>';
// The typeface that Grafana's server would serve.
const inter = (weight) => readFile(`${wanted.bundle}/node_modules/@fontsource/inter/files/inter-latin-${weight}-normal.woff2`);
const FILES = {
  '/main.js': ['text/javascript', () => readFile(`${wanted.bundle}/main.js`)],
  '/main.css': ['text/css', () => readFile(`${wanted.bundle}/main.css`)],
  '/public/fonts/inter/Inter-Regular.woff2': ['font/woff2', () => inter(400)],
  '/public/fonts/inter/Inter-Medium.woff2': ['font/woff2', () => inter(500)],
  '/dashboard.json': ['application/json', () => readFile(wanted.dashboard)],
  '/favicon.ico': ['image/x-icon', () => ''],
  '/': ['text/html', () => PAGE],
};

const server = createServer(async (request, response) => {
  const found = FILES[new URL(request.url, 'http://x').pathname];
  response.writeHead(found ? 200 : 404, { 'Content-Type': found?.[0] ?? 'text/plain' });
  response.end(found ? await found[1]() : '');
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));

// Whether there is something to see, from the pixels and texts that are really there.
function look(element) {
  const text = element.innerText;
  const inked = [...element.querySelectorAll('canvas')].some((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const colors = new Set();
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 200 && Math.max(data[at], data[at + 1], data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]) > 40) {
        colors.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
      }
    }
    return colors.size > 0;
  });
  return {
    id: Number(element.dataset.panel),
    text,
    inked,
    rows: element.querySelectorAll('[role="row"]').length,
    complains: /no data|nothing in this time range|unexpected error|not found/i.test(text),
  };
}

const browser = await chromium.launch({ executablePath: wanted.chromium, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
try {
  const page = await browser.newPage({ viewport: { width: wanted.width ?? 1600, height: 1000 }, deviceScaleFactor: wanted.scale ?? 1 });
  const complaints = [];
  // Icons are not in the panel libraries; whatever else is missing is told.
  page.on('response', (response) => response.status() >= 400 && !response.url().includes('/img/icons/') && complaints.push(`${response.status()} ${response.url()}`));
  page.on('pageerror', (error) => complaints.push(error.stack));
  page.on('console', (message) => message.type() === 'error' && !message.text().startsWith('Failed to load resource') && complaints.push(message.text()));
  const query = new URLSearchParams({ prometheus: wanted.prometheus, from: wanted.from, to: wanted.to, scrape: wanted.scrape, theme: wanted.theme ?? 'dark', ...wanted.variables });
  if (wanted.interval) {
    query.set('interval', wanted.interval);
  }
  await page.goto(`http://127.0.0.1:${server.address().port}/?${query}`);
  const ready = () => window.harness?.failed || window.harness?.report?.().every(({ state, error }) => error || state === 'Done' || state === 'Error');
  // Too late is not the end: the picture and what the panels say are the explanation.
  await page.waitForFunction(ready, null, { timeout: wanted.timeout ?? 30_000 }).catch((error) => complaints.push(error.message));
  // Whatever is still being laid out is, two frames later.
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
  await page.waitForTimeout(500);
  const height = await page.evaluate(() => document.querySelector('#root').scrollHeight);
  await page.setViewportSize({ width: wanted.width ?? 1600, height: Math.ceil(height) });
  await page.waitForTimeout(500);
  const failed = await page.evaluate(() => (window.harness ? window.harness.failed : 'the page did not start'));
  const told = failed ? [] : await page.evaluate(() => window.harness.report());
  const seen = await page.$$eval('[data-panel]', (elements, source) => elements.map(eval(`(${source})`)), look.toString());
  // Only now, because their lines would pass for data.
  await page.evaluate(() => window.harness?.annotate?.());
  if (wanted.picture) {
    await page.screenshot({ path: wanted.picture, fullPage: true });
  }
  const panels = told.map((one) => ({ ...one, ...seen.find(({ id }) => id === one.id) }));
  process.stdout.write(JSON.stringify({ failed, complaints, panels }));
} finally {
  await browser.close();
  server.close();
}
