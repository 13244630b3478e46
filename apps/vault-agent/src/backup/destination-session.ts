/** What is listed and read of a destination in one go, over one connection where that is worth it. */
import type { Readable } from 'node:stream';
import {
  type BackupDestination,
  DestinationError,
  type DestinationSession,
} from './destination.ts';

/** @throws DestinationError */
export async function openSession(
  destination: BackupDestination,
  signal: AbortSignal,
): Promise<DestinationSession> {
  if (destination.session !== undefined) return destination.session(signal);
  return {
    list: () => destination.list(signal),
    readText: async (name, maxBytes) => {
      const stream = await destination.read(name, signal);
      try {
        return await textOf(stream, maxBytes);
      } catch (error) {
        if (error instanceof DestinationError) throw error;
        signal.throwIfAborted();
        throw new DestinationError(destination.label, 'unavailable', `${name} was not read`, error);
      }
    },
    close: () => undefined,
  };
}

/** The beginning of a stream, which is then closed. */
export async function textOf(stream: Readable, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  // What happens to it once its text is read is nobody's business any more.
  stream.on('error', () => undefined);
  try {
    for await (const chunk of stream) {
      length += (chunk as Buffer).length;
      if (length > maxBytes) break;
      chunks.push(chunk as Buffer);
    }
  } finally {
    stream.destroy();
  }
  return Buffer.concat(chunks).toString('utf8');
}
