/**
 * A system whose password is in a file, with a program that changes it: what a script rotator runs in
 * tests. The file is the first argument; what the second names happens as well.
 */
import { spawn } from 'node:child_process';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';

const [, , world = '', trouble = ''] = process.argv;
const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const message = JSON.parse(Buffer.concat(chunks).toString('utf8'));
appendFileSync(`${world}.steps`, `${message.step}\n`);
appendFileSync(`${world}.seen`, `${JSON.stringify([process.argv.slice(2), process.env])}\n`);

const fail = (problem: string) => {
  process.stdout.write(JSON.stringify({ problem }));
  process.stderr.write(`this was it: ${JSON.stringify(message)}`);
  process.exit(3);
};
if (trouble === 'hangs') {
  // A child of its own that would go on after its parent.
  const child = spawn('sleep', ['60'], { stdio: 'inherit' });
  appendFileSync(`${world}.pids`, `${process.pid} ${child.pid}\n`);
  await new Promise(() => setInterval(() => undefined, 1_000));
}
if (trouble === 'floods') {
  const block = 'x'.repeat(65_536);
  for (;;)
    if (!process.stdout.write(block))
      await new Promise((done) => process.stdout.once('drain', done));
}
if (trouble === 'leaks') fail(`${message.current.value}`);
if (trouble === `fails-${message.step}`) fail('out-of-order');
switch (message.step) {
  case 'create':
    process.stdout.write(JSON.stringify({ value: `made-${Date.now()}-${process.pid}` }));
    break;
  case 'apply':
    writeFileSync(world, message.next.value);
    break;
  case 'verify':
    if (readFileSync(world, 'utf8') !== message.value.value) fail('does-not-work');
    break;
  case 'rollBack':
    writeFileSync(world, message.current.value);
    break;
}
