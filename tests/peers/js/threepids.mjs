// Lists the contacts of an account: `threepids.mjs {base url} {access token}`. A refusal is an answer, too.
import { createClient } from "matrix-js-sdk";

const [, , baseUrl, accessToken] = process.argv;
const client = createClient({ baseUrl, accessToken });
const answer = await client.getThreePids().then(
    (body) => ({ status: 200, body }),
    (error) => ({ status: error.httpStatus, errcode: error.errcode ?? null }),
);
console.log(JSON.stringify(answer));
process.exit(0);
