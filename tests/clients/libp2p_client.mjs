// js-libp2p, unchanged, over TCP with yamux. Usage: node libp2p_client.mjs NODE_MODULES noise|tls COMMAND [ADDRESS]
//   greet    connects to ADDRESS, identifies and pings it
//   dialled  waits to be connected to, then identifies and pings who came
//   relayed  one node reserves a place at the relay ADDRESS; another reaches it there, pings it and gets bytes echoed
// Each prints what it saw as JSON lines and stays until its standard input closes; a dial that fails is {"refused": …}.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, security, command, address] = process.argv.slice(2);
const ECHO = "/interop/echo/1";
// More than relays carry where nobody has set them other limits (128 KiB).
const ECHO_BYTES = 512 * 1024;
const PIECE_BYTES = 16 * 1024;

// Node has it from version 22 on, and js-libp2p counts on it.
Promise.withResolvers ??= function () {
  const made = {};
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};

// The packages are ES modules without an entry for `require`, and lie in a folder of their own.
async function load(name) {
  const folder = join(modules, name);
  const { exports } = JSON.parse(readFileSync(join(folder, "package.json")));
  return import(pathToFileURL(join(folder, exports["."].import)));
}
const { createLibp2p } = await load("libp2p");
const { tcp } = await load("@libp2p/tcp");
const { tls } = await load("@libp2p/tls");
const { noise } = await load("@chainsafe/libp2p-noise");
const { yamux } = await load("@chainsafe/libp2p-yamux");
const { identify } = await load("@libp2p/identify");
const { ping } = await load("@libp2p/ping");
const { circuitRelayTransport } = await load("@libp2p/circuit-relay-v2");
const { multiaddr } = await load("@multiformats/multiaddr");

const start = (...listen) => createLibp2p({
  addresses: { listen },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [security === "tls" ? tls() : noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping({ runOnLimitedConnection: true }) },
  connectionGater: { denyDialMultiaddr: () => false },
});
const print = (seen) => console.log(JSON.stringify(seen));
const identified = (node) => new Promise((resolve) =>
  node.addEventListener("peer:identify", ({ detail }) => resolve(detail), { once: true }));
async function inputEnds() {
  for await (const _ of process.stdin);
}

async function talk(node, { connection, agentVersion, protocolVersion, protocols, observedAddr }) {
  const ping_ms = await node.services.ping.ping(connection.remotePeer);
  const { remotePeer, encryption, multiplexer } = connection;
  const said = { agent: agentVersion, protocol: protocolVersion, protocols, observed: observedAddr };
  print({ own: node.peerId, peer: remotePeer, encryption, multiplexer, ping_ms, ...said });
  await inputEnds();
  assert.strictEqual(connection.status, "open", "the connection did not last");
  await node.stop();
}

async function greet() {
  const node = await start();
  const known = identified(node);
  try {
    await node.dial(multiaddr(address));
  } catch (error) {
    print({ refused: `${error.name}: ${error.message}` });
    return node.stop();
  }
  await talk(node, await known);
}

async function dialled() {
  const node = await start("/ip4/127.0.0.1/tcp/0");
  const known = identified(node);
  print({ address: node.getMultiaddrs()[0] });
  await talk(node, await known);
}

async function relayed() {
  const reached = await start(`${address}/p2p-circuit`);
  const echo = async (stream) => {
    for await (const piece of stream) if (!stream.send(piece)) await stream.onDrain();
    await stream.close();
  };
  await reached.handle(ECHO, echo, { runOnLimitedConnection: true });
  const own = reached.getMultiaddrs();
  assert(own.length > 0, "the relay gave no reservation");
  const dialer = await start();
  const connection = await dialer.dial(own[0]);
  const ping_ms = await dialer.services.ping.ping(connection.remotePeer);
  const stream = await connection.newStream(ECHO, { runOnLimitedConnection: true });
  let echoed = 0;
  const all = (async () => {
    for await (const piece of stream) echoed += piece.byteLength;
  })();
  for (let sent = 0; sent < ECHO_BYTES; sent += PIECE_BYTES)
    if (!stream.send(new Uint8Array(PIECE_BYTES))) await stream.onDrain();
  await stream.close();
  await all;
  const { remoteAddr, encryption, limits } = connection;
  print({ own, address: remoteAddr, encryption, ping_ms, echoed, bytes_max: Number(limits.bytes) });
  await inputEnds();
  await dialer.stop();
  await reached.stop();
}

await { greet, dialled, relayed }[command]();
process.exit(0);
