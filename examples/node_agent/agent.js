// An agent in JavaScript: the project's .proto files and @grpc/grpc-js, nothing else.
//
// It registers, attaches, takes tasks of the skill `sha256` as far as its credits go, says how far it is, sends results, and
// publishes one message for each task done. When the node goes away it comes back by itself; results that the node has not
// confirmed go again.
//
//     npm ci && node agent.js --socket DIR/edgenode.sock --name js
//     edgenode submit sha256 '"some text"' --wait --state DIR

import { createHash, randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const SKILL = "sha256";
const CREDITS = 4;
const RPC_MS = 10_000;
const CAME_AND_WENT = [grpc.status.UNAVAILABLE, grpc.status.CANCELLED, grpc.status.NOT_FOUND];

const { values: options } = parseArgs({
  options: {
    socket: { type: "string" }, // the node's Unix socket
    name: { type: "string", default: "js" },
    count: { type: "string", default: "0" }, // end after this many tasks; 0: never
    proto: { type: "string", default: fileURLToPath(new URL("../../proto", import.meta.url)) },
  },
});
if (!options.socket) {
  console.error("error: no socket\n  try: node agent.js --socket DIR/edgenode.sock");
  process.exit(2);
}

// int64 as text: a JavaScript number loses the last digits of a fence.
const definition = loader.loadSync(
  ["registry", "task", "message"].map((area) => `edgenode/api/${area}/v1/${area}_service.proto`),
  { includeDirs: [options.proto], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true },
);
const api = grpc.loadPackageDefinition(definition).edgenode.api;

/** What an agent has to remember between two streams. */
class Agent {
  constructor(socket, name, count) {
    const address = `unix:${socket}`;
    const credentials = grpc.credentials.createInsecure(); // the socket's file mode says who may come in
    this.registry = new api.registry.v1.RegistryService(address, credentials);
    this.tasks = new api.task.v1.TaskService(address, credentials);
    this.messages = new api.message.v1.MessageService(address, credentials);
    this.name = name;
    this.left = count || Infinity;
    this.instanceId = randomUUID();
    this.incarnation = Date.now();
    this.unconfirmed = new Map(); // key as text -> result
    this.producerId = randomUUID();
    this.published = 0;
  }

  /** Tells the node who we are. Harmless to repeat. */
  register() {
    const skill = {
      id: SKILL,
      name: "SHA-256",
      description: "Digest of a text, in hexadecimal digits.",
      input_schema: '{"type":"string"}',
      output_schema: '{"type":"string"}',
    };
    return unary(this.registry, "registerAgent", {
      request_id: randomUUID(),
      card: { name: this.name, description: "Raw stubs in JavaScript", skills: [skill] },
      instance_id: this.instanceId,
      incarnation: this.incarnation,
      capacity_count: CREDITS,
    });
  }

  /** One WorkTasks stream, from attaching to its end; resolves when enough tasks are done and confirmed. */
  async work() {
    const stream = this.tasks.workTasks();
    stream.write({
      attach: {
        agent: this.name,
        instance_id: this.instanceId,
        attempts: [...this.unconfirmed.values()].map((result) => result.key),
      },
    });
    for await (const frame of stream) {
      await this.take(stream, frame);
      if (this.left <= 0 && !this.unconfirmed.size) stream.end(); // the node closes then
    }
    if (this.left > 0) throw Object.assign(new Error("the node closed the stream"), { code: grpc.status.UNAVAILABLE });
  }

  /** A frame of the node. */
  async take(stream, frame) {
    if (frame.attached) {
      console.log(`attached to ${frame.attached.node}`);
      stream.write({ credit_count: CREDITS, results: [...this.unconfirmed.values()] });
    }
    for (const assignment of frame.assignments) this.run(stream, assignment);
    const settled = [...frame.confirmations, ...frame.cancels, ...frame.result_problems.map((refused) => refused.key)];
    for (const key of settled) await this.confirmed(key);
  }

  /** Does one task and hands in its result together with the credit for another one. */
  run(stream, { key, spec }) {
    stream.write({ updates: [{ key, progress: { fraction: 0.5, message: "half way" } }] });
    const result = { key, ...answer(spec.input) };
    this.unconfirmed.set(textOf(key), result);
    stream.write({ results: [result], credit_count: 1 });
  }

  /** The node has committed a result (or does not want it any more): the task is done. */
  async confirmed(key) {
    if (!this.unconfirmed.has(textOf(key))) return;
    await this.publish("js.done", key.task_id);
    this.unconfirmed.delete(textOf(key));
    this.left -= 1;
    console.log(`done ${key.task_id}`);
  }

  /** Publishes one message and waits until it is durable on the node. A stream a message is simple, not fast. */
  publish(topic, text) {
    const stream = this.messages.publish({ deadline: Date.now() + RPC_MS });
    const sequence = this.published + 1;
    stream.write({
      producer_id: this.producerId,
      first_sequence: sequence,
      batch: { messages: [{ topic, payload: Buffer.from(text), content_type: "text/plain" }] },
    });
    return new Promise((resolve, reject) => {
      stream.on("error", reject);
      stream.on("data", ({ rejections, durable_local_sequence }) => {
        for (const { problem } of rejections) console.log(`message refused: ${problem.reason}`);
        if (Number(durable_local_sequence) < sequence) return;
        this.published = sequence;
        resolve();
        stream.end();
      });
    });
  }

  /** Takes our name off the node. */
  leave() {
    return unary(this.registry, "deregisterAgent", {
      request_id: randomUUID(),
      agent: this.name,
      instance_id: this.instanceId,
    });
  }
}

/** The end of an attempt for these input bytes. */
function answer(input) {
  try {
    const text = JSON.parse(input.toString());
    if (typeof text !== "string") throw new TypeError(`it is a ${typeof text}`);
    const digest = createHash("sha256").update(text).digest("hex");
    return {
      state: "TASK_STATE_COMPLETED",
      output: { data: Buffer.from(JSON.stringify(digest)), content_type: "application/json" },
    };
  } catch (error) {
    const problem = { code: grpc.status.INVALID_ARGUMENT, reason: "BAD_INPUT", message: `not a JSON string: ${error.message}` };
    return { state: "TASK_STATE_REJECTED", problem };
  }
}

/** An attempt's key as something to look up. */
function textOf({ task_id, attempt_number, fence }) {
  return `${task_id}/${attempt_number}/${fence}`;
}

/** A unary rpc as a promise. */
function unary(client, method, request) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + RPC_MS;
    client[method](request, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

const agent = new Agent(options.socket, options.name, Number(options.count));
let longest = 100; // milliseconds; full jitter up to 2 s
for (;;) {
  try {
    await agent.register();
    longest = 100;
    await agent.work();
    await agent.leave();
    process.exit(0);
  } catch (error) {
    if (!CAME_AND_WENT.includes(error.code)) {
      console.error(`${grpc.status[error.code] ?? "error"}: ${error.details ?? error.message}`);
      process.exit(1);
    }
    console.log(`node away: ${error.details ?? error.message}`);
  }
  await sleep(Math.random() * longest);
  longest = Math.min(2000, longest * 2);
}
