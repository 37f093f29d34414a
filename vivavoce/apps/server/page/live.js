// The live protocol, docs/protocol.md: one WebSocket, one session.

import { liveAddress, sentence } from "./api.js";

const HEADER_BYTES = 16;
const PICTURE = 1;
const SOUND = 2;
const SPEECH = 1; // a flag
const CLOSING_SECONDS = 1;

/**
 * A session at a time. `told` has a function for each thing that can happen:
 * opened(message), picture(packet), sound(packet), segment(message), interrupted(message), status(message), trip(seconds),
 * problem(words), lost(words). A packet is {seconds, speech, payload}.
 */
export class Live {
  #told;
  #socket = null;
  #opened = false;
  #attempt = 0;

  constructor(told) {
    this.#told = told;
  }

  get connected() {
    return this.#opened;
  }

  /** End the session that is there, and open another one with the fields of `open`. */
  async open(fields) {
    const attempt = ++this.#attempt;
    await this.#close();
    if (attempt !== this.#attempt) {
      return; // another one was asked for meanwhile
    }
    const socket = new WebSocket(liveAddress());
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    let reason = null; // in the server's words, where it had any
    socket.onopen = () => socket.send(JSON.stringify({ type: "open", ...fields }));
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) {
        return;
      }
      if (typeof data !== "string") {
        this.#media(data);
        return;
      }
      const message = JSON.parse(data);
      if (message.type === "error") {
        reason = sentence(message.message);
      }
      this.#control(message);
    };
    socket.onclose = () => {
      if (socket === this.#socket) {
        reason ??= this.#opened ? "The connection to the server was lost." : "The server cannot be reached.";
        this.#socket = null;
        this.#opened = false;
        this.#told.lost(reason);
      }
    };
  }

  /** Send a message; false where no session is open. */
  send(message) {
    return this.#send(JSON.stringify(message));
  }

  /** Send speech, an Int16Array at the rate of the session; false where no session is open. */
  sendSound(samples) {
    return this.#send(samples);
  }

  #send(data) {
    if (this.#opened) {
      this.#socket.send(data);
    }
    return this.#opened;
  }

  /** Resolves when the server knows, so that the old session does not take the place of the new one. */
  async #close() {
    const socket = this.#socket;
    this.#socket = null;
    this.#opened = false;
    if (socket !== null && socket.readyState !== WebSocket.CLOSED) {
      await new Promise((resolve) => {
        socket.onclose = resolve;
        setTimeout(resolve, 1000 * CLOSING_SECONDS);
        socket.close();
      });
    }
  }

  #media(data) {
    const header = new DataView(data, 0, HEADER_BYTES);
    const packet = {
      seconds: Number(header.getBigUint64(8, true)) / 1e6,
      speech: (header.getUint8(1) & SPEECH) !== 0,
      payload: data.slice(HEADER_BYTES),
    };
    const kind = header.getUint8(0);
    if (kind === PICTURE) {
      this.#told.picture(packet);
    } else if (kind === SOUND) {
      this.#told.sound(packet);
    }
  }

  #control(message) {
    switch (message.type) {
      case "opened":
        this.#opened = true;
        this.#told.opened(message);
        break;
      case "segment":
        this.#told.segment(message);
        break;
      case "interrupted":
        this.#told.interrupted(message);
        break;
      case "status":
        this.#told.status(message);
        this.send({ type: "ping", id: performance.now() });
        break;
      case "pong":
        this.#told.trip((performance.now() - message.id) / 1000);
        break;
      case "error":
        this.#told.problem(sentence(message.message));
        break;
    }
  }
}
