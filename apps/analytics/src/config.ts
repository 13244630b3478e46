import { readEnvironment } from '@keystead/service-runtime/environment';

export const readConfig = () => readEnvironment({});
export type Config = ReturnType<typeof readConfig>;
