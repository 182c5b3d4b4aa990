// @discordjs/ws as a peer: it logs in, gets a message, is dropped, resumes, chunks a guild. A line of output for each.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [apiUrl, , compress, modules] = process.argv.slice(2);
const require = createRequire(modules + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { REST } = (await load("@discordjs/rest")).default;
const { CompressionMethod, WebSocketManager, WebSocketShardEvents } = (await load("@discordjs/ws")).default;

const methods = {
  "zlib-stream": CompressionMethod.ZlibNative,
  "zstd-stream": CompressionMethod.ZstdNative,
};
if (methods[compress] === undefined) {
  console.log("unsupported");
  process.exit(0);
}
const token = "NQ.made.up";
const rest = new REST({ api: apiUrl.replace(/\/v10$/, ""), version: "10" }).setToken(token);
const manager = new WebSocketManager({ token, intents: 53608447, rest, compression: methods[compress] });

let large = { member_count: 0 };
let members = 0;
const named = (event) => event.data ?? event;
manager.on(WebSocketShardEvents.Ready, () => console.log("ready"));
manager.on(WebSocketShardEvents.Resumed, () => {
  console.log("resumed");
  manager.send(0, { op: 8, d: { guild_id: large.id, query: "", limit: 0 } });
});
manager.on(WebSocketShardEvents.Dispatch, (event) => {
  const { t, d } = named(event);
  if (t === "GUILD_CREATE" && d.member_count > large.member_count) large = d;
  if (t === "MESSAGE_CREATE") console.log("message", d.content);
  if (t === "GUILD_MEMBERS_CHUNK") {
    members += d.members.length;
    if (d.chunk_index === d.chunk_count - 1) {
      console.log("members", members);
      manager.destroy();
    }
  }
});
await manager.connect();
