/** Sections of JSON lines, read one at a time. */
import { inOurWords, leafIssues } from '@keystead/contracts/issue-text';
import { Corrupt } from '@keystead/envelope/sealed';
import type { z } from 'zod';

/** Yields what each line says. @throws Corrupt with the section, the line, and what is wrong there */
export async function* readLines<Schema extends z.ZodType>(
  section: string,
  content: AsyncIterable<Uint8Array>,
  schema: Schema,
  lineMaxBytes: number,
): AsyncGenerator<z.output<Schema>, void, undefined> {
  let waiting: Buffer = Buffer.alloc(0);
  let lineNumber = 0;
  const wrong = (what: string) =>
    new Corrupt('content', `the ${section} of the backup, line ${lineNumber}: ${what}`);
  for await (const chunk of content) {
    waiting = waiting.length === 0 ? Buffer.from(chunk) : Buffer.concat([waiting, chunk]);
    for (let end = waiting.indexOf(0x0a); end >= 0; end = waiting.indexOf(0x0a)) {
      lineNumber += 1;
      const line = waiting.subarray(0, end);
      waiting = waiting.subarray(end + 1);
      let json: unknown;
      try {
        json = JSON.parse(line.toString('utf8'));
      } catch {
        throw wrong('it is no JSON');
      }
      const parsed = schema.safeParse(json, inOurWords);
      if (!parsed.success) {
        const [issue] = leafIssues(parsed.error.issues);
        // The path names a field, the message a rule: neither holds a value.
        throw wrong(`${issue?.path.join('.') ?? ''} ${issue?.message ?? ''}`.trim());
      }
      yield parsed.data;
    }
    if (waiting.length > lineMaxBytes) throw new Corrupt('too_long');
  }
  if (waiting.length > 0) {
    throw new Corrupt('too_short', `the ${section} of the backup are cut off`);
  }
}

/** For the text of a column that holds JSON: what is wrong with it is told as of the line. */
export function jsonText(schema: z.ZodType) {
  return (text: string, context: z.RefinementCtx): void => {
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      context.addIssue({ code: 'custom', message: 'is no JSON' });
      return;
    }
    const parsed = schema.safeParse(json, inOurWords);
    if (parsed.success) return;
    const [issue] = leafIssues(parsed.error.issues);
    context.addIssue({ code: 'custom', message: issue?.message ?? '', path: issue?.path ?? [] });
  };
}
