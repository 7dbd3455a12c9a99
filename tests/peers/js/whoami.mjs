// Asks a homeserver who a token belongs to: `whoami.mjs {base url} {access token}`.
import { createClient } from "matrix-js-sdk";

const [, , baseUrl, accessToken] = process.argv;
const client = createClient({ baseUrl, accessToken });
console.log(JSON.stringify(await client.whoami()));
process.exit(0);
