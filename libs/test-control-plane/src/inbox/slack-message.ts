/**
 * What a Slack incoming webhook accepts, as far as a message about an alert goes: an object with text,
 * or with blocks of known kinds whose texts are there and not too long.
 */
const blockKinds = new Set([
  'actions',
  'context',
  'divider',
  'header',
  'image',
  'input',
  'rich_text',
  'section',
  'table',
  'video',
  'markdown',
]);

interface Block {
  type?: unknown;
  text?: { type?: unknown; text?: unknown };
  fields?: unknown;
  elements?: unknown;
}

/** @returns why Slack would refuse it, or undefined. */
export function whatSlackRefuses(payload: unknown): string | undefined {
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) {
    return 'the payload is not an object';
  }
  const { text, blocks } = payload as { text?: unknown; blocks?: unknown };
  if (text !== undefined && typeof text !== 'string') return 'text is not a string';
  if (blocks === undefined) return text ? undefined : 'there is neither text nor blocks';
  if (!Array.isArray(blocks)) return 'blocks is not a list';
  if (blocks.length > 50) return 'there are more than 50 blocks';
  if (blocks.length === 0 && !text) return 'there is neither text nor blocks';
  for (const [index, block] of blocks.entries()) {
    const problem = whatIsWrongWith(block as Block);
    if (problem !== undefined) return `blocks[${index}]: ${problem}`;
  }
  return undefined;
}

function whatIsWrongWith(block: Block): string | undefined {
  if (typeof block !== 'object' || block === null) return 'not an object';
  if (typeof block.type !== 'string' || !blockKinds.has(block.type)) {
    return `unknown type ${JSON.stringify(block.type)}`;
  }
  if (block.type === 'header') {
    if (block.text?.type !== 'plain_text') return 'a header needs a plain_text';
    return whatIsWrongWithText(block.text.text, 150);
  }
  if (block.type === 'section') {
    if (block.text === undefined && block.fields === undefined) {
      return 'a section needs text or fields';
    }
    if (block.text !== undefined) {
      if (block.text.type !== 'mrkdwn' && block.text.type !== 'plain_text') {
        return 'text must be mrkdwn or plain_text';
      }
      const problem = whatIsWrongWithText(block.text.text, 3_000);
      if (problem !== undefined) return problem;
    }
    if (block.fields !== undefined) {
      if (!Array.isArray(block.fields) || block.fields.length > 10) {
        return 'fields must be a list of at most 10';
      }
      for (const field of block.fields) {
        const problem = whatIsWrongWithText(field?.text, 2_000);
        if (problem !== undefined) return `fields: ${problem}`;
      }
    }
    return undefined;
  }
  if (block.type === 'context' || block.type === 'actions') {
    const most = block.type === 'context' ? 10 : 25;
    if (!Array.isArray(block.elements) || block.elements.length === 0)
      return 'elements are missing';
    if (block.elements.length > most) return `more than ${most} elements`;
  }
  return undefined;
}

function whatIsWrongWithText(text: unknown, maxLength: number): string | undefined {
  if (typeof text !== 'string' || text.length === 0) return 'the text is empty';
  return text.length > maxLength ? `the text is longer than ${maxLength}` : undefined;
}

interface TextLike {
  text?: unknown;
}

/** The message in plain words, for people who look at the inbox. */
export function slackMessageAsText(payload: unknown): string {
  const { text, blocks } = (payload ?? {}) as { text?: unknown; blocks?: unknown };
  const lines: string[] = [];
  if (Array.isArray(blocks)) {
    for (const block of blocks as (Block & { text?: TextLike; fields?: TextLike[] })[]) {
      if (block.type === 'divider') lines.push('────────');
      if (typeof block.text?.text === 'string') lines.push(block.text.text);
      if (Array.isArray(block.fields)) {
        lines.push(...block.fields.map((field) => String(field?.text ?? '')));
      }
      if (Array.isArray(block.elements)) {
        for (const element of block.elements as (TextLike & { url?: unknown })[]) {
          const label = element?.text as TextLike | string | undefined;
          const words = typeof label === 'object' ? String(label?.text ?? '') : String(label ?? '');
          lines.push(typeof element?.url === 'string' ? `[${words}] ${element.url}` : words);
        }
      }
    }
  }
  if (lines.length === 0 && typeof text === 'string') lines.push(text);
  return lines.filter((line) => line !== '').join('\n');
}

/** What would stand in a notification about it. */
export function slackMessageTitle(payload: unknown): string {
  const { text } = (payload ?? {}) as { text?: unknown };
  const line = typeof text === 'string' && text !== '' ? text : slackMessageAsText(payload);
  return line.split('\n')[0]?.slice(0, 200) || '(no text)';
}
