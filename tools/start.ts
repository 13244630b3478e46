/**
 * `npm start`: a whole installation on this machine, with a demo unless `--empty` is given. It keeps
 * its data in .keystead and stops, on Ctrl-C or SIGTERM, everything it started and nothing else.
 */
import { build } from './build.ts';
import { type Demo, startDemo } from './demo.ts';
import { endWith, Installation } from './installation.ts';
import { summary } from './summary.ts';
import { fail, say } from './terminal.ts';

const unknown = process.argv.slice(2).filter((argument) => argument !== '--empty');
if (unknown.length > 0) fail(`unknown argument ${unknown[0]}; there is only --empty`);
const isEmpty = process.argv.includes('--empty');

const startedAt = Date.now();
const installation = new Installation();
endWith(installation);
try {
  await installation.start(build);
  const demo: Demo | undefined = isEmpty ? undefined : await startDemo(installation);
  say(summary(installation, demo, startedAt));
} catch (error) {
  // A stop while starting makes half of it fail; that is no news.
  if (!installation.isStopping) {
    await installation.stop();
    fail(error);
  }
}
