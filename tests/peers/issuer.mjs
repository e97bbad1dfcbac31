// A real OpenID provider for the tests: https on loopback, tokens by client credentials, keys rotated on command.
//
// Environment: PEERS, the folder with node_modules; TLS, the folder with tls.key, tls.crt and ca.pem.
// Standard output: `at URL`, then one line for each command on standard input:
//   keys A,B        publish these keys and sign with the first   -> `ok`
//   token CLIENT    a JWT access token by client credentials     -> the token
//   opaque CLIENT   an opaque one                                -> the token
//   revoke TOKEN    revoke an opaque one                         -> `ok`
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const resolve = createRequire(`${process.env.PEERS}/`).resolve;
const { default: Provider } = await import(pathToFileURL(resolve('oidc-provider')));
const jose = await import(pathToFileURL(resolve('jose')));

const tls = (name) => readFileSync(`${process.env.TLS}/${name}`);
const secret = 'a-secret-of-the-tests';
const made = new Map();
let handle;

const server = https.createServer({ key: tls('tls.key'), cert: tls('tls.crt') }, (request, response) => {
  handle(request, response);
});
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `https://localhost:${server.address().port}`;

async function key(kid) {
  if (!made.has(kid)) {
    const { privateKey } = await jose.generateKeyPair('ES256', { extractable: true });
    made.set(kid, { ...(await jose.exportJWK(privateKey)), kid, alg: 'ES256', use: 'sig' });
  }
  return made.get(kid);
}

async function publish(kids) {
  const keys = await Promise.all(kids.map(key));
  const client = (client_id) => ({
    client_id,
    client_secret: secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'client_secret_basic',
    id_token_signed_response_alg: 'ES256',
  });
  const provider = new Provider(issuer, {
    clients: ['ledger', 'reports'].map(client),
    jwks: { keys },
    ttl: { ClientCredentials: 300 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'orders:read',
          audience: 'orders',
          accessTokenTTL: 300,
          accessTokenFormat: resource.endsWith('/opaque') ? 'opaque' : 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  handle = provider.callback();
}

function post(path, client, form) {
  const body = new URLSearchParams(form).toString();
  const options = {
    method: 'POST',
    ca: tls('ca.pem'),
    auth: `${client}:${secret}`,
    headers: { 'content-type': 'application/x-www-form-urlencoded', 'content-length': Buffer.byteLength(body) },
  };
  return new Promise((done, failed) => {
    const request = https.request(`${issuer}${path}`, options, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => (response.statusCode === 200 ? done(text) : failed(new Error(text))));
    });
    request.on('error', failed);
    request.end(body);
  });
}

async function token(client, resource) {
  const answer = await post('/token', client, { grant_type: 'client_credentials', scope: 'orders:read', resource });
  return JSON.parse(answer).access_token;
}

const commands = {
  keys: async (kids) => { await publish(kids.split(',')); return 'ok'; },
  token: (client) => token(client, 'https://orders.test/jwt'),
  opaque: (client) => token(client, 'https://orders.test/opaque'),
  revoke: async (value) => { await post('/token/revocation', 'ledger', { token: value }); return 'ok'; },
};

await publish(['first']);
console.log(`at ${issuer}`);
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ');
  console.log(await commands[command](argument));
}
process.exit(0);
