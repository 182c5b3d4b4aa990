// @discordjs/ws with zlib-sync against the load server: node discordjs.mjs URL NODE_MODULES, and a line of JSON at the end.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, modules] = process.argv.slice(2);
const require = createRequire(modules + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { CompressionMethod, WebSocketManager, WebSocketShardEvents } = (await load("@discordjs/ws")).default;

const information = {
  url,
  shards: 1,
  session_start_limit: { total: 1000, remaining: 1000, reset_after: 0, max_concurrency: 1 },
};
const manager = new WebSocketManager({
  token: "NQ.made.up",
  intents: 53608447,
  rest: { get: async () => information },
  fetchGatewayInformation: async () => information,
  compression: CompressionMethod.ZlibSync,
});

let seen = 0;
let cpu, wall;
manager.on(WebSocketShardEvents.Ready, () => {
  cpu = process.cpuUsage();
  wall = process.hrtime.bigint();
});
manager.on(WebSocketShardEvents.Dispatch, (payload) => {
  seen += 1;
  if ((payload.data ?? payload).t !== "GUILD_BAN_ADD") return;
  const used = process.cpuUsage(cpu);
  const elapsed = Number(process.hrtime.bigint() - wall) / 1e9;
  // Node's own zlib is five times slower and no rival: the shared library of zlib-sync must be in this process.
  const loaded = process.report.getReport().sharedObjects.some((name) => name.endsWith("zlib_sync.node"));
  console.log(JSON.stringify({ cpu: (used.user + used.system) / 1e6, wall: elapsed, seen, zlib_sync: loaded }));
  process.exit(loaded ? 0 : 1);
});
await manager.connect();
