/**
 * A client of Barrage (and of goim) over WebSocket: one file, no dependencies, for browsers
 * and for Node. Copy it.
 *
 *     import { Client } from "./barrage.js";
 *
 *     const client = new Client({ url: "ws://localhost:3102/sub", room: "live://1000", accepts: [1000] });
 *     client.on("message", (message) => console.log(message.op, message.text));
 *     client.on("state", ({ state, reason }) => console.log(state, reason));
 *     client.connect();
 *
 * Node has a WebSocket of its own from version 22 on; for an older one pass a class:
 * new Client({ WebSocket: (await import("ws")).WebSocket, ... }).
 *
 * @module barrage
 */

/** Operations of the protocol. Those of 1000 and more are free for pushes. */
export const Op = Object.freeze({
  HEARTBEAT: 2,
  HEARTBEAT_REPLY: 3,
  SEND: 4,
  DISCONNECT: 6,
  AUTH: 7,
  AUTH_REPLY: 8,
  BATCH: 9,
  CHANGE_ROOM: 12,
  CHANGE_ROOM_REPLY: 13,
  SUB: 14,
  SUB_REPLY: 15,
  UNSUB: 16,
  UNSUB_REPLY: 17,
});

/** Bytes of a frame before its body. */
export const HEADER_SIZE = 16;

/** Largest body that a client may send, in bytes. */
export const MAX_BODY = 4096;

const utf8 = new TextEncoder();
const fromUTF8 = new TextDecoder();

/** Bytes that are no frame of the protocol. */
export class FrameError extends Error {
  name = "FrameError";
}

/** A session that ended before it answered. */
export class ClosedError extends Error {
  name = "ClosedError";
}

/**
 * One message of the protocol.
 * @typedef {object} Frame
 * @property {number} ver   version; 1 in every push
 * @property {number} op    operation
 * @property {number} seq   chosen by the client and echoed in the reply; 0 in a push
 * @property {Uint8Array} body
 */

/**
 * Encodes a frame: package length (4 bytes), header length (2), version (2), operation (4)
 * and sequence (4), all big endian, then the body.
 * @param {{op: number, seq?: number, ver?: number, body?: string | Uint8Array}} frame
 * @returns {Uint8Array}
 */
export function encodeFrame({ op, seq = 0, ver = 1, body = "" }) {
  const bytes = typeof body === "string" ? utf8.encode(body) : body;
  const frame = new Uint8Array(HEADER_SIZE + bytes.length);
  const view = new DataView(frame.buffer);
  view.setInt32(0, frame.length);
  view.setInt16(4, HEADER_SIZE);
  view.setInt16(6, ver);
  view.setInt32(8, op);
  view.setInt32(12, seq);
  frame.set(bytes, HEADER_SIZE);
  return frame;
}

/**
 * Decodes frames that stand back to back. The bodies alias the input.
 * @param {ArrayBuffer | Uint8Array} data
 * @returns {Frame[]}
 * @throws {FrameError} when the data is not whole frames to its last byte
 */
export function decodeFrames(data) {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const frames = [];
  for (let offset = 0; offset < bytes.length; ) {
    const left = bytes.length - offset;
    if (left < HEADER_SIZE) {
      throw new FrameError(`${left} bytes at ${offset} are too few for a header`);
    }
    const size = view.getUint32(offset);
    if (size < HEADER_SIZE || size > left) {
      throw new FrameError(`package length ${size} at ${offset} is outside ${HEADER_SIZE} to ${left}`);
    }
    const headerSize = view.getInt16(offset + 4);
    if (headerSize !== HEADER_SIZE) {
      throw new FrameError(`header length ${headerSize} at ${offset} is not ${HEADER_SIZE}`);
    }
    frames.push({
      ver: view.getInt16(offset + 6),
      op: view.getInt32(offset + 8),
      seq: view.getInt32(offset + 12),
      body: bytes.subarray(offset + HEADER_SIZE, offset + size),
    });
    offset += size;
  }
  return frames;
}

/**
 * Decodes one WebSocket message of the server: its frames, with every batch (operation 9)
 * replaced by the frames in it.
 * @param {ArrayBuffer | Uint8Array} data
 * @returns {Frame[]}
 */
export function decodeMessage(data) {
  return decodeFrames(data).flatMap((frame) => (frame.op === Op.BATCH ? decodeFrames(frame.body) : frame));
}

/** A push as it arrived. */
export class Message {
  /**
   * @param {Frame} frame
   * @param {number} at
   */
  constructor(frame, at) {
    /** Operation of the push. */
    this.op = frame.op;
    /** The body, byte for byte. */
    this.body = frame.body;
    /** When it arrived, in milliseconds since 1970 with fractions. */
    this.at = at;
  }

  /** Bytes on the wire, header included. */
  get size() {
    return HEADER_SIZE + this.body.length;
  }

  /** The body as text. */
  get text() {
    return fromUTF8.decode(this.body);
  }

  /** The body as JSON; undefined when it is none. */
  get json() {
    try {
      return JSON.parse(this.text);
    } catch {
      return undefined;
    }
  }
}

/**
 * How long to wait before connecting again, in milliseconds: base x factor^failures, at
 * most max, less a random part of it, so that many clients don't come back at once.
 * @typedef {object} Backoff
 * @property {number} base
 * @property {number} max
 * @property {number} factor
 * @property {number} jitter   0 to 1
 */

/**
 * @typedef {object} Options
 * @property {string | string[] | (() => string | string[] | Promise<string | string[]>)} url
 *   Where to connect: ws://host:3102/sub. Of a list the next is tried after a failure; a
 *   function is asked before every attempt.
 * @property {string} [room]        room key as type://id; none by default
 * @property {number[]} [accepts]   operations of pushes to keys, members and all that are wanted
 * @property {string} [key]         the session's key; the server makes one without it
 * @property {number | bigint | string} [mid]   member id
 * @property {string} [platform]    "web" by default
 * @property {Record<string, unknown>} [token]  what else goes into the auth token
 * @property {number} [heartbeat]   milliseconds between heartbeats, 30,000 by default
 * @property {number} [timeout]     milliseconds for connecting, and for each answer, 10,000 by default
 * @property {Partial<Backoff>} [backoff]
 * @property {typeof WebSocket} [WebSocket]     the class to use, globalThis.WebSocket by default
 */

/**
 * What a client is doing:
 * "idle" before connect, "connecting", "open" once the server has taken the auth token,
 * "waiting" before the next attempt, "closed" for good: by close(), or because the server
 * said that another session has taken this one's place ("replaced") or that there are
 * enough under its key ("rejected").
 * @typedef {"idle" | "connecting" | "open" | "waiting" | "closed"} State
 */

/**
 * A change of state. reason says why a session ended, in words, and code is the server's
 * word for it, if it gave one. delay is the time to the next attempt in milliseconds.
 * @typedef {{state: State, url: string, reason: string, code: string, delay: number}} StateEvent
 */

/** @typedef {{state: StateEvent, message: Message, online: number, error: Error}} Events */

/** Codes of the server's farewell (operation 6) after which connecting again is no use. */
const FINAL = { replaced: "another session has taken this one's place", rejected: "there are enough sessions under this key" };

/**
 * Keeps one session alive: connects, authenticates, sends heartbeats, and connects again
 * when the connection is lost, to the room and with the subscriptions it had last.
 *
 * Events: "state" with a StateEvent, "message" with a Message for each push, in order,
 * "online" with the room's online count, "error" with an Error of a handler of yours or
 * in what the server sent.
 */
export class Client {
  /** @type {State} */
  state = "idle";
  /** The room's online count as of the last heartbeat; -1 before the first. */
  online = -1;
  /** Where it is connected, or was last. */
  url = "";
  /** The room that the session is in; "" for none. */
  room;

  #options;
  #mid;
  #accepts;
  /** @type {Map<string, Set<(detail: any) => void>>} */
  #handlers = new Map();
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Map<number, {op: number, resolve: (frame: Frame) => void, reject: (err: Error) => void, timer: any}>} */
  #pending = new Map();
  #seq = 0;
  #attempt = 0; // tells the callbacks of an attempt that was given up
  #failures = 0;
  #openedAt = 0;
  #timer; // the next attempt, the next heartbeat, or the end of connecting
  #code = "";

  /** @param {Options} options */
  constructor(options) {
    this.#options = { heartbeat: 30_000, timeout: 10_000, platform: "web", WebSocket: globalThis.WebSocket, ...options };
    this.#options.backoff = { base: 500, max: 30_000, factor: 1.8, jitter: 0.3, ...options.backoff };
    if (!this.#options.WebSocket) {
      throw new TypeError("there is no WebSocket here: pass a class as the option WebSocket");
    }
    this.#mid = BigInt(options.mid ?? 0); // 64 bits: more than a number has here
    this.room = options.room ?? "";
    this.#accepts = new Set(options.accepts ?? []);
  }

  /** The operations that the session accepts, in order. */
  get accepts() {
    return [...this.#accepts].sort((a, b) => a - b);
  }

  /**
   * Has handler called for every event of a kind.
   * @template {keyof Events} E
   * @param {E} event
   * @param {(detail: Events[E]) => void} handler
   * @returns {() => void} what takes it back
   */
  on(event, handler) {
    const handlers = this.#handlers.get(event) ?? new Set();
    this.#handlers.set(event, handlers.add(handler));
    return () => handlers.delete(handler);
  }

  /** Connects, and keeps connected until close. While waiting, it tries at once. */
  connect() {
    if (this.state === "connecting" || this.state === "open") {
      return;
    }
    clearTimeout(this.#timer);
    this.#open();
  }

  /** Ends the session for good; connect begins a new one. */
  close() {
    const socket = this.#end("closed by this client");
    this.#code = "";
    socket?.close(1000);
    this.#enter("closed", { reason: "closed by this client" });
  }

  /**
   * Goes to another room; "" leaves the one it is in.
   * @param {string} room type://id
   */
  async changeRoom(room) {
    await this.#request(Op.CHANGE_ROOM, Op.CHANGE_ROOM_REPLY, room);
    this.room = room;
    this.online = -1;
    this.#beat();
  }

  /**
   * Accepts more operations.
   * @param {number[]} ops
   */
  async sub(ops) {
    await this.#request(Op.SUB, Op.SUB_REPLY, ops.join());
    ops.forEach((op) => this.#accepts.add(op));
  }

  /**
   * Accepts these operations no longer.
   * @param {number[]} ops
   */
  async unsub(ops) {
    await this.#request(Op.UNSUB, Op.UNSUB_REPLY, ops.join());
    ops.forEach((op) => this.#accepts.delete(op));
  }

  /**
   * Sends a frame of an operation of your own to logic, and resolves with the reply.
   * @param {number} op
   * @param {string | Uint8Array} body at most MAX_BODY bytes
   * @returns {Promise<Frame>}
   */
  send(op, body = "") {
    return this.#request(op, op, body);
  }

  /**
   * Asks for the room's online count, which also keeps the session alive.
   * @returns {Promise<number>}
   */
  async heartbeat() {
    const { body } = await this.#request(Op.HEARTBEAT, Op.HEARTBEAT_REPLY);
    if (body.length >= 4) {
      this.online = new DataView(body.buffer, body.byteOffset).getInt32(0);
      this.#emit("online", this.online);
    }
    return this.online;
  }

  async #open() {
    const attempt = ++this.#attempt;
    this.#code = "";
    this.#enter("connecting");
    this.#timer = setTimeout(() => this.#lost(attempt, "connecting took too long"), this.#options.timeout);
    let socket;
    try {
      const { url } = this.#options;
      const urls = [typeof url === "function" ? await url() : url].flat();
      if (attempt !== this.#attempt) {
        return;
      }
      if (urls.length === 0) {
        throw new Error("there is no server to connect to");
      }
      this.url = urls[this.#failures % urls.length];
      socket = new this.#options.WebSocket(this.url);
    } catch (err) {
      this.#lost(attempt, err.message);
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => attempt === this.#attempt && this.#authenticate(attempt);
    socket.onmessage = ({ data }) => attempt === this.#attempt && this.#receive(attempt, data);
    socket.onerror = () => {}; // close follows, and says more
    socket.onclose = ({ code, reason }) => {
      const before = this.#openedAt ? "the connection was closed" : "no connection, or closed before the session began";
      this.#lost(attempt, `${before} (${[code, reason].filter(Boolean).join(", ")})`);
    };
  }

  #authenticate(attempt) {
    clearTimeout(this.#timer); // from here on the answer has a time of its own
    const { key = "", platform, token } = this.#options;
    const rest = { key, room_id: this.room, platform, accepts: this.accepts, ...token };
    const body = `{"mid":${this.#mid},${JSON.stringify(rest).slice(1)}`;
    const begin = () => {
      this.#openedAt = Date.now();
      this.#enter("open");
      if (attempt === this.#attempt) {
        this.#beat();
      }
    };
    this.#ask(Op.AUTH, Op.AUTH_REPLY, body, begin, (err) => this.#lost(attempt, err.message));
  }

  /** Sends a heartbeat now and then one after every period, for as long as this session lasts. */
  async #beat() {
    const attempt = this.#attempt;
    clearTimeout(this.#timer);
    if (this.state !== "open") {
      return;
    }
    this.#timer = setTimeout(() => this.#beat(), this.#options.heartbeat);
    try {
      await this.heartbeat();
    } catch (err) {
      this.#lost(attempt, err.message);
    }
  }

  #receive(attempt, data) {
    const at = performance.timeOrigin + performance.now();
    let frames;
    try {
      frames = decodeMessage(data);
    } catch (err) {
      this.#emit("error", err);
      this.#lost(attempt, `the server sent what is no frame: ${err.message}`);
      return;
    }
    for (const frame of frames) {
      const pending = frame.seq && this.#pending.get(frame.seq);
      if (pending && pending.op === frame.op) {
        this.#pending.delete(frame.seq);
        clearTimeout(pending.timer);
        pending.resolve(frame);
      } else if (frame.op === Op.DISCONNECT) {
        this.#code = new Message(frame, at).json?.code ?? "";
        if (Object.hasOwn(FINAL, this.#code)) {
          this.#end(FINAL[this.#code])?.close(1000);
          this.#enter("closed", { reason: FINAL[this.#code] });
          return;
        }
      } else {
        this.#emit("message", new Message(frame, at));
      }
      if (attempt !== this.#attempt) {
        return; // a handler closed the session
      }
    }
  }

  /**
   * Sends a frame of a session and resolves with the one that answers it.
   * @param {number} op
   * @param {number} replyOp
   * @param {string | Uint8Array} [body]
   * @returns {Promise<Frame>}
   */
  #request(op, replyOp, body = "") {
    if (this.state !== "open") {
      return Promise.reject(new ClosedError("there is no session now"));
    }
    return new Promise((resolve, reject) => this.#ask(op, replyOp, body, resolve, reject));
  }

  /**
   * Sends a frame; resolve is called with the answer before any later frame is looked at.
   * @param {number} op
   * @param {number} replyOp
   * @param {string | Uint8Array} body
   * @param {(frame: Frame) => void} resolve
   * @param {(err: Error) => void} reject
   */
  #ask(op, replyOp, body, resolve, reject) {
    const bytes = typeof body === "string" ? utf8.encode(body) : body;
    if (bytes.length > MAX_BODY) {
      reject(new RangeError(`a body of ${bytes.length} bytes: accepted are ${MAX_BODY}`));
      return;
    }
    const seq = (this.#seq % 0x7fffffff) + 1;
    this.#seq = seq;
    const timer = setTimeout(() => {
      this.#pending.delete(seq);
      reject(new ClosedError("the server does not answer"));
    }, this.#options.timeout);
    this.#pending.set(seq, { op: replyOp, resolve, reject, timer });
    this.#socket.send(encodeFrame({ op, seq, body: bytes }));
  }

  /** Gives this attempt up and plans the next. */
  #lost(attempt, reason) {
    if (attempt !== this.#attempt) {
      return;
    }
    const { base, max, factor, jitter } = this.#options.backoff;
    const wait = () => Math.min(max, base * factor ** this.#failures);
    if (this.#openedAt && Date.now() - this.#openedAt > wait()) {
      this.#failures = 0; // a session that ends as soon as it began is a failure as well
    }
    const delay = wait() * (1 - jitter * Math.random());
    this.#failures++;
    if (this.#code === "drained") {
      reason = "the server is going away";
    }
    this.#end(reason)?.close();
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#enter("waiting", { reason, delay });
  }

  /** Forgets the socket, which no callback speaks of any more, and what waits for an answer. */
  #end(reason) {
    const socket = this.#socket;
    this.#attempt++;
    this.#socket = null;
    this.#openedAt = 0;
    this.online = -1;
    clearTimeout(this.#timer);
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(new ClosedError(reason));
    }
    this.#pending.clear();
    return socket;
  }

  /**
   * @param {State} state
   * @param {{reason?: string, delay?: number}} [why]
   */
  #enter(state, { reason = "", delay = 0 } = {}) {
    this.state = state;
    this.#emit("state", { state, url: this.url, reason, code: this.#code, delay });
  }

  #emit(event, detail) {
    for (const handler of this.#handlers.get(event) ?? []) {
      try {
        handler(detail);
      } catch (err) {
        if (event === "error") {
          throw err;
        }
        this.#emit("error", err);
      }
    }
  }
}
