// Keys and tokens by another library, one of each algorithm, as one JSON object on standard output.
// Environment: PEERS, the folder with node_modules.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const resolve = createRequire(`${process.env.PEERS}/`).resolve;
const jose = await import(pathToFileURL(resolve('jose')));

const keys = [];
const tokens = {};
for (const alg of ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']) {
  const { publicKey, privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  keys.push({ ...(await jose.exportJWK(publicKey)), kid: alg, alg, use: 'sig' });
  tokens[alg] = await new jose.SignJWT({ jti: alg })
    .setProtectedHeader({ alg, kid: alg, typ: 'JWT' })
    .setIssuer(process.env.ISS)
    .setSubject('ledger')
    .setAudience('orders')
    .setIssuedAt(Number(process.env.NOW))
    .setExpirationTime(Number(process.env.NOW) + 300)
    .sign(privateKey);
}
console.log(JSON.stringify({ jwks: { keys }, tokens }));
