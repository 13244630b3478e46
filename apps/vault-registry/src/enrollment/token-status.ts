export interface TokenState {
  uses: number;
  maxUses: number;
  expiresAt: Date;
  revokedAt: Date | null;
}

/** Revocation is a person's word, so it is shown before what time and use did. */
export function tokenStatusOf(
  token: TokenState,
  now: Date,
): 'active' | 'used_up' | 'expired' | 'revoked' {
  if (token.revokedAt !== null) return 'revoked';
  if (token.uses >= token.maxUses) return 'used_up';
  return token.expiresAt <= now ? 'expired' : 'active';
}
