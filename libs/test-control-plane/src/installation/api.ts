/** The public API as its users see it: JSON over HTTP, and nothing the gateway does not offer. */

export class ApiError extends Error {
  readonly status: number;
  readonly problem: unknown;

  constructor(what: string, status: number, problem: unknown) {
    super(`${what}: ${status} ${JSON.stringify(problem)}`);
    this.status = status;
    this.problem = problem;
  }
}

export interface ApiAnswer<Body> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Body;
}

export class Api {
  readonly url: string;
  readonly #token: string | undefined;

  constructor(url: string, token?: string) {
    this.url = url;
    this.#token = token;
  }

  as(token: string): Api {
    return new Api(this.url, token);
  }

  /** Whatever comes back, errors too. */
  async send<Body = unknown>(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<ApiAnswer<Body>> {
    const answer = await fetch(`${this.url}${path}`, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }),
        ...headers,
      },
      body: body === undefined ? null : JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    });
    const text = await answer.text();
    let parsed: unknown = text;
    try {
      parsed = text === '' ? undefined : JSON.parse(text);
    } catch {
      // Not JSON: the text itself.
    }
    return { status: answer.status, headers: answer.headers, body: parsed as Body };
  }

  /** @throws ApiError for whatever is not a success. */
  async request<Body = unknown>(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<Body> {
    const answer = await this.send<Body>(method, path, body, headers);
    if (answer.status >= 300) throw new ApiError(`${method} ${path}`, answer.status, answer.body);
    return answer.body;
  }

  get<Body = unknown>(path: string): Promise<Body> {
    return this.request<Body>('GET', path);
  }

  post<Body = unknown>(path: string, body: unknown): Promise<Body> {
    return this.request<Body>('POST', path, body);
  }

  patch<Body = unknown>(path: string, body: unknown): Promise<Body> {
    return this.request<Body>('PATCH', path, body, { 'if-match': '*' });
  }
}

export interface Owner {
  readonly name: string;
  readonly email: string;
  readonly password: string;
}

/** Signs an organization up and its owner in. */
export async function signUp(
  api: Api,
  name: string,
  owner: Owner,
): Promise<{ organization: unknown; api: Api; accessToken: string }> {
  const organization = await api.post('/v1/organizations', { name, owner });
  const { accessToken } = await signIn(api, owner);
  return { organization, api: api.as(accessToken), accessToken };
}

export function signIn(
  api: Api,
  { email, password }: Pick<Owner, 'email' | 'password'>,
): Promise<{ accessToken: string; refreshToken: string; expiresAt: string }> {
  return api.post('/v1/sessions', { email, password });
}

export interface EnrollmentToken {
  readonly token: string;
  readonly caFingerprint: string;
  readonly agentEndpoint: string;
  readonly command: string;
}
