/** An audit line as a message of RFC 5424, and how it is framed on its way. */
import { parseLine } from '../audit-entry.ts';
import type { ForwardedLine } from './destination.ts';

/** "log audit" of RFC 5424, table 1. */
const facility = 13;
const severity = { error: 3, warning: 4, notice: 5, informational: 6 } as const;

/**
 * The message is the line itself, so that the receiver can verify the chain. It begins without a byte
 * order mark, which RFC 5424 allows and receivers of JSON expect.
 */
export function syslogMessage(
  { sequence, text }: ForwardedLine,
  origin: { hostname: string; processId: number; program?: string | undefined },
): string {
  const line = parseLine(text);
  const priority = facility * 8 + severity[severityOf(line)];
  const id = headerText(line?.type === 'operation' ? line.action : (line?.type ?? ''), 32);
  const hostname = headerText(origin.hostname, 255);
  const facts = `[audit@32473 sequence="${sequence}" hash="${headerText(line?.hash ?? '', 64)}"]`;
  const at = headerText(line?.at ?? '', 32);
  const program = origin.program ?? 'keystead-agent';
  return `<${priority}>1 ${at} ${hostname} ${program} ${origin.processId} ${id} ${facts} ${text}`;
}

/** RFC 6587 3.4.1 and RFC 5425 4.3: the number of bytes, a space, the message. */
export function octetCounted(message: string): Buffer {
  const bytes = Buffer.from(message);
  return Buffer.concat([Buffer.from(`${bytes.length} `), bytes]);
}

function severityOf(line: ReturnType<typeof parseLine>): keyof typeof severity {
  if (line?.type === 'mended' || line?.type === 'resumed') return 'error';
  if (line?.type !== 'operation') return 'informational';
  if (line.result === 'failed') return 'error';
  if (line.result === 'denied' || line.result === 'throttled') return 'warning';
  return line.phase === 'started' ? 'informational' : 'notice';
}

/** Printable ASCII without spaces, or `-`. */
function headerText(text: string, most: number): string {
  return text.replaceAll(/[^!-~]/g, '').slice(0, most) || '-';
}
