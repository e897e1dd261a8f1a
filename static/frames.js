// SPDX-License-Identifier: MIT
/*
 * Bytes in, meaning out: what a connection's first bytes are, and a WebSocket's frames one by one.
 * Nothing here knows of a page, so all of it can be tried in a console.
 */
"use strict";

/** "1603" -> Uint8Array [0x16, 0x03] */
function bytesOfHex(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** 22 -> "16" */
function hexOfByte(byte) {
  return byte.toString(16).padStart(2, "0");
}

/** Uint8Array [0x16, 0x03] -> "16 03" */
function hexOfBytes(bytes) {
  return Array.from(bytes, hexOfByte).join(" ");
}

/** A byte as the character it is in ASCII, or a dot. */
function asciiOfByte(byte) {
  return byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·";
}

function textOfBytes(bytes) {
  return new TextDecoder().decode(bytes);
}

/** Put byte arrays together. */
function joinBytes(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// ================================================================ first bytes

const METHODS = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI".split(" ");

/**
 * Say in words what the first bytes of a connection are.
 *
 * Returns { verdict, confirming, words }: the first byte decides, the `confirming` bytes behind it agree.
 */
function explainFirstBytes(head) {
  return explainTls(head) ?? explainHttp(head) ?? explainNative(head) ?? explainUnknown(head);
}

function explainTls(head) {
  // A record: type 22 (handshake), version 3.x, length; in it the kind of handshake message and
  // its length in three bytes (RFC 8446, sections 5.1 and 4).
  if (head[0] !== 0x16 || (head.length > 1 && head[1] !== 0x03)) return null;
  const confirming = Math.min(2, head.length - 1);
  let words = `${hexOfBytes(head.subarray(0, 3))}: a TLS record, type 22: handshake`;
  if (head[5] === 0x01) words += "; the 01 in it: a ClientHello";
  if (head[5] === 0x01 && head.length >= 9) {
    words += ` of ${((head[6] << 16) | (head[7] << 8) | head[8]).toLocaleString("en")} bytes`;
  }
  return { verdict: "tls", confirming, words };
}

function explainHttp(head) {
  const text = textOfBytes(head);
  const method = METHODS.find((name) => `${name} `.startsWith(text) || text.startsWith(`${name} `));
  if (head.length === 0 || !method) return null;
  const known = text.slice(0, method.length + 1); // less, where less has come
  const words = `${hexOfBytes(head.subarray(0, known.length))}: “${known}”, an HTTP request`;
  return { verdict: "http", confirming: known.length - 1, words };
}

function explainNative(head) {
  if (head[0] !== 0x7b) return null;
  return { verdict: "native", confirming: 0, words: "7b: “{”, JSON begins: a native client’s line" };
}

function explainUnknown(head) {
  const byte = head.length ? `${hexOfByte(head[0])}: ` : "";
  return { verdict: "unknown", confirming: 0, words: `${byte}no TLS record, no HTTP method, no “{”` };
}

// ================================================================ frames (RFC 6455 section 5.2)

const OPCODES = { 0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong" };
const KEPT_PAYLOAD = 64 * 1024; // bytes of one frame; what goes beyond is only counted

/**
 * Takes one direction of a connection apart, whatever the pieces in which it comes.
 *
 * It may begin in the middle, and pieces may be missing: then it looks for a frame at the beginning
 * of the next chunk, where in practice one mostly begins, and checks that it can be one.
 */
class FrameReader {
  #header = new Uint8Array(0); // of a frame whose header isn't complete
  #frame = null; // whose payload isn't complete

  /** fromClient: a client's frames are masked, a server's are not. */
  constructor(fromClient) {
    this.fromClient = fromClient;
  }

  /** Forget what is half read; there is a gap in what comes. */
  restart() {
    this.#header = new Uint8Array(0);
    this.#frame = null;
  }

  /**
   * Take a chunk and, after it, `more` bytes that nobody has. Return what was completed: frames as
   * { header, fin, rsv, opcode, masked, key, length, wire, missing }, or { lost: bytes }.
   */
  read(chunk, more = 0) {
    const found = [];
    let rest = chunk;
    while (rest.length > 0) rest = this.#frame ? this.#takePayload(rest, found) : this.#takeHeader(rest, found);
    if (more > 0) this.#skip(more, found);
    return found;
  }

  #takeHeader(bytes, found) {
    const known = joinBytes([this.#header, bytes]);
    const size = headerSize(known);
    if (known.length < 2 || known.length < size) {
      this.#header = known;
      return bytes.subarray(bytes.length);
    }
    const frame = parseHeader(known.subarray(0, size));
    if (!isPlausible(frame, this.fromClient)) {
      this.restart();
      found.push({ lost: known.length });
      return bytes.subarray(bytes.length);
    }
    const rest = bytes.subarray(size - this.#header.length);
    this.#header = new Uint8Array(0);
    this.#begin(frame, found);
    return rest;
  }

  #begin(frame, found) {
    this.#frame = { ...frame, parts: [], kept: 0, left: frame.length, missing: 0 };
    this.#endIfComplete(found);
  }

  #takePayload(bytes, found) {
    const frame = this.#frame;
    const mine = bytes.subarray(0, frame.left);
    const kept = mine.subarray(0, KEPT_PAYLOAD - frame.kept);
    frame.parts.push(kept);
    frame.kept += kept.length;
    frame.missing += mine.length - kept.length;
    frame.left -= mine.length;
    this.#endIfComplete(found);
    return bytes.subarray(mine.length);
  }

  #skip(more, found) {
    if (this.#frame && this.#frame.left >= more) {
      this.#frame.left -= more;
      this.#frame.missing += more;
      this.#endIfComplete(found);
    } else {
      this.restart(); // somewhere in what is missing another frame begins
      found.push({ lost: more });
    }
  }

  #endIfComplete(found) {
    if (this.#frame.left > 0) return;
    const { parts, kept, left, ...frame } = this.#frame;
    this.#frame = null;
    found.push({ ...frame, wire: joinBytes(parts) });
  }
}

/** How many bytes a header has: 2, then 2 or 8 of length and 4 of mask key where they are due. */
function headerSize(bytes) {
  const length = bytes[1] & 0x7f;
  return 2 + (length === 126 ? 2 : length === 127 ? 8 : 0) + (bytes[1] & 0x80 ? 4 : 0);
}

function parseHeader(header) {
  const view = new DataView(header.buffer, header.byteOffset);
  const short = header[1] & 0x7f;
  const masked = Boolean(header[1] & 0x80);
  return {
    header: header.slice(),
    fin: Boolean(header[0] & 0x80),
    rsv: [0x40, 0x20, 0x10].map((bit) => (header[0] & bit ? 1 : 0)),
    opcode: header[0] & 0x0f,
    masked,
    length: short === 126 ? view.getUint16(2) : short === 127 ? Number(view.getBigUint64(2)) : short,
    key: masked ? header.slice(-4) : null,
  };
}

/** Whether this may be a frame at all, or we have begun in the middle of one. */
function isPlausible(frame, fromClient) {
  const isControl = frame.opcode >= 8;
  return (
    frame.opcode in OPCODES &&
    frame.masked === fromClient &&
    !frame.rsv[1] && !frame.rsv[2] && // no extension of ours uses them
    !(isControl && (!frame.fin || frame.length > 125 || frame.rsv[0])) &&
    frame.length < 2 ** 31
  );
}

/** Masked or unmasked, it is the same operation: byte XOR key byte, the key over and over again. */
function unmask(bytes, key) {
  return key ? bytes.map((byte, index) => byte ^ key[index % 4]) : bytes;
}

/** The code and reason in a close frame (RFC 6455 section 5.5.1). */
function textOfClose(payload) {
  if (payload.length < 2) return "no code";
  return `${(payload[0] << 8) | payload[1]} ${textOfBytes(payload.subarray(2))}`.trim();
}

// ================================================================ permessage-deflate (RFC 7692)

/**
 * Inflates one direction's compressed messages.
 *
 * A message may repeat what stood in the last 32 KiB before it ("context takeover"), and we may have
 * come too late to know that. So each message is inflated behind a block of those 32 KiB: what we
 * know of them, and UNKNOWN in place of what we don't.
 */
class Inflater {
  static WINDOW = 32 * 1024;
  static LARGEST = 64 * 1024; // bytes that one message may become here
  static UNKNOWN = 0x1a; // "substitute"

  static get works() {
    return typeof DecompressionStream !== "undefined";
  }

  constructor() {
    this.restart();
  }

  /** Forget what came before: there is a gap. */
  restart() {
    this.history = new Uint8Array(Inflater.WINDOW).fill(Inflater.UNKNOWN);
  }

  /** Inflate one message. Resolves to its bytes, or null where that can't be done. */
  async inflate(payload) {
    const size = Inflater.WINDOW;
    // Deflate's "stored" block: not the last, length, its complement, the bytes as they are.
    const before = [Uint8Array.of(0, size & 0xff, size >> 8, ~size & 0xff, (~size >> 8) & 0xff), this.history];
    // The sender cut off an empty stored block at the message's end; another one, the last, ends all.
    const after = Uint8Array.of(0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff);
    try {
      const stream = new Blob([...before, payload, after]).stream();
      const output = await readAtMost(stream.pipeThrough(new DecompressionStream("deflate-raw")), size + Inflater.LARGEST);
      this.history = output.slice(-size);
      return output.slice(size);
    } catch {
      this.restart();
      return null;
    }
  }
}

async function readAtMost(stream, limit) {
  const parts = [];
  let size = 0;
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return joinBytes(parts);
    parts.push(value);
    size += value.length;
    if (size > limit) {
      reader.cancel();
      throw new RangeError("more than is wanted");
    }
  }
}

// ================================================================ native lines

/** Takes one direction of a native connection apart: lines. */
class LineReader {
  #parts = [];
  #size = 0;
  #missing = 0;

  restart() {
    this.#parts = [];
    this.#size = this.#missing = 0;
  }

  /** Return the lines that were completed, as { wire, length, missing }, their newline included. */
  read(chunk, more = 0) {
    const found = [];
    let rest = chunk;
    for (let end = rest.indexOf(0x0a); end >= 0; end = rest.indexOf(0x0a)) {
      this.#keep(rest.subarray(0, end + 1));
      found.push({ wire: joinBytes(this.#parts), length: this.#size, missing: this.#missing });
      this.restart();
      rest = rest.subarray(end + 1);
    }
    this.#keep(rest);
    this.#size += more;
    this.#missing += more;
    return found;
  }

  #keep(bytes) {
    const room = Math.max(0, KEPT_PAYLOAD - (this.#size - this.#missing));
    if (bytes.length) this.#parts.push(bytes.slice(0, room));
    this.#size += bytes.length;
    this.#missing += Math.max(0, bytes.length - room);
  }
}
