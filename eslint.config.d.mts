import type { Linter } from 'eslint';

export const borders: Record<string, { may: string[]; external?: string[]; not?: string[] }>;
declare const config: Linter.Config[];
export default config;
