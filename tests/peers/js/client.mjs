// One call of a real client: `client.mjs {base url} {access token} {identity server's URL or ""} {method} {JSON list of
// arguments}`. A refusal is an answer, too.
import { createClient } from "matrix-js-sdk";

const [, , baseUrl, accessToken, idBaseUrl, method, argumentsAsJson] = process.argv;
const client = createClient({ baseUrl, accessToken, idBaseUrl: idBaseUrl || undefined });
const answer = await client[method](...JSON.parse(argumentsAsJson)).then(
    (body) => ({ status: 200, body }),
    (error) => ({ status: error.httpStatus ?? null, errcode: error.errcode ?? null, body: error.data ?? String(error) }),
);
console.log(JSON.stringify(answer));
process.exit(0);
