// Takes the pictures of the README, into FOLDER.

import { writeFileSync } from 'node:fs';
import { launch } from './browser.mjs';

const { URL_PLAIN, FOLDER } = process.env;
const browser = await launch();

async function shoot(name, colorScheme, hash, ready) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, colorScheme, locale: 'en-GB' });
  const page = await context.newPage();
  await page.goto(`${URL_PLAIN}/${hash}`);
  await ready(page);
  const session = await context.newCDPSession(page);
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: 82 });
  writeFileSync(`${FOLDER}/${name}.webp`, Buffer.from(data, 'base64'));
  await context.close();
}

// Charts are worth a picture once there is something on them.
await shoot('overview', 'light', '#/overview', async (page) => {
  const points = () => page.locator('.chart .line').first().getAttribute('d').then((d) => d.split('L').length);
  while (await points() < 32) await page.waitForTimeout(1000);
});
await shoot('route', 'dark', '#/routes/users', (page) => page.locator('summary', { hasText: 'rate_limit' }).click());
await browser.close();
