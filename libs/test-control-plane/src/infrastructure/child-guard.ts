import { type ChildProcess, spawn } from 'node:child_process';

/**
 * Ends the processes this one has started when this one dies without the chance to do it, as by a
 * `kill -9`. It is a shell that reads their ids from a pipe: the end of the pipe is our death.
 *
 * An id is taken off the list as soon as the process is seen to end, so that an id used again by the
 * system for somebody else's process is not ended by mistake.
 */
const script = `
trap '' INT TERM HUP
guarded=''
folders=''
while read -r sign id; do
  case "$sign" in
    +) guarded="$guarded $id" ;;
    -) left=''; for each in $guarded; do [ "$each" = "$id" ] || left="$left $each"; done; guarded="$left" ;;
    folder) folders="$folders $id" ;;
  esac
done
finish() {
  for each in $folders; do rm -rf "$each"; done
  exit 0
}
[ -n "$guarded" ] || finish
kill -TERM $guarded 2>/dev/null
for attempt in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  alive=''; for each in $guarded; do kill -0 "$each" 2>/dev/null && alive="$alive $each"; done
  guarded="$alive"
  [ -n "$guarded" ] || finish
  sleep 0.2
done
kill -KILL $guarded 2>/dev/null
finish
`;

let guard: ChildProcess | undefined;

function tell(line: string): void {
  if (guard === undefined) {
    guard = spawn('/bin/sh', ['-c', script], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    guard.unref();
    guard.on('error', () => undefined);
    guard.stdin?.on('error', () => undefined);
    // The pipe must not keep this process alive; it closes with it.
    (guard.stdin as unknown as { unref?: () => void }).unref?.();
  }
  guard.stdin?.write(`${line}\n`);
}

/** Has this folder removed once this process is gone, however it went. */
export function guardFolder(folder: string): void {
  if (!/\s/.test(folder)) tell(`folder ${folder}`);
}

/** Has this child ended should this process die without stopping it. */
export function guardChild(child: ChildProcess): void {
  const id = child.pid;
  if (id === undefined) return;
  tell(`+ ${id}`);
  child.once('exit', () => tell(`- ${id}`));
}
