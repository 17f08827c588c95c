// The suite cannot be told of a token: whatever it sends to the server under test carries it, by whichever client of its three.
import http from "node:http";
import { syncBuiltinESMExports } from "node:module";
import { getGlobalDispatcher, setGlobalDispatcher } from "undici";

const bridge = new URL(process.env.BRIDGE_URL);
const token = `Bearer ${process.env.BRIDGE_TOKEN}`;

// undici's request, and the fetch that is built on it.
setGlobalDispatcher(
  getGlobalDispatcher().compose((dispatch) => (options, handler) => {
    if (new URL(options.origin).origin !== bridge.origin) return dispatch(options, handler);
    const headers = [];
    const given = options.headers ?? {};
    if (Array.isArray(given)) headers.push(...given);
    else for (const [name, value] of given[Symbol.iterator] ? given : Object.entries(given)) headers.push(name, value);
    return dispatch({ ...options, headers: [...headers, "authorization", token] }, handler);
  }),
);

const { request } = http;
http.request = (...args) => {
  const asked = request(...args);
  if (asked.getHeader("host") === bridge.host) asked.setHeader("authorization", token);
  return asked;
};
syncBuiltinESMExports();
