/** The three ways into one database: its owner, who migrates, and the two logins of the services. */
export interface DatabaseUrls {
  readonly ownerUrl: string;
  readonly serviceUrl: string;
  readonly acrossUrl: string;
}

/** The logins' names carry the database's, so that two installations can share a server. */
export function databaseUrls(
  ownerUrl: string,
  passwords: { readonly service: string; readonly across: string },
): DatabaseUrls {
  const database = decodeURIComponent(new URL(ownerUrl).pathname.slice(1)) || 'postgres';
  const as = (login: 'service' | 'across') => {
    const url = new URL(ownerUrl);
    url.username = encodeURIComponent(`keystead_${database}_${login}`);
    url.password = passwords[login];
    return url.href;
  };
  return { ownerUrl, serviceUrl: as('service'), acrossUrl: as('across') };
}

/** The same logins on another database of the same server. */
export function onDatabase(urls: DatabaseUrls, database: string): DatabaseUrls {
  const move = (text: string) => {
    const url = new URL(text);
    url.pathname = `/${encodeURIComponent(database)}`;
    return url.href;
  };
  return {
    ownerUrl: move(urls.ownerUrl),
    serviceUrl: move(urls.serviceUrl),
    acrossUrl: move(urls.acrossUrl),
  };
}
