// SPDX-License-Identifier: MIT
/*
 * Engine: the client's half of wsdual, to be copied into other pages. It depends on nothing.
 *
 *     const engine = new Engine();
 *     engine.initialize("127.0.0.1", 4530, true);            // true: wss, false: ws
 *     engine.on("said", (message) => console.log(message.from, message.text));
 *     engine.on("state", (now) => console.log(now.state));
 *     engine.connect();
 *     engine.login("ann");                                   // may come before the connection is open
 *     engine.say("hello");
 *
 * It stays connected: what is lost is opened again, and the login repeated, until disconnect().
 *
 * This is a classic script on purpose. Browsers don't load module scripts from file://, and this
 * file has to work there too. To use it as a module, write `export` before `class`.
 */
"use strict";

class Engine extends EventTarget {
  // A lost server gets time to come back: the pauses grow, or it would be met by a crowd of clients
  // that all try ten times a second. Each is up to a quarter longer or shorter, so that the crowd
  // doesn't come in step either.
  static FIRST_PAUSE = 500; // milliseconds
  static LONGEST_PAUSE = 8000;

  #socket = null;
  #timer = 0;
  #failures = 0; // in a row, since a connection was last open
  #isSecondTry = false;
  #wantedName = null;

  constructor() {
    super();
    this.state = "closed"; // "closed", "connecting", "open", or "waiting" for the next attempt
    this.name = null; // once the server has welcomed us
    this.initialize("127.0.0.1", 4530, false);
  }

  /** Say where the server is. Takes effect with the next connect(). */
  initialize(host, port, useWss, path = "/chat") {
    this.host = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host; // an IPv6 address
    this.port = port;
    this.useWss = useWss;
    this.path = path;
  }

  get url() {
    return `${this.useWss ? "wss" : "ws"}://${this.host}:${this.port}${this.path}`;
  }

  /** Call listener(detail) at each event of a type; see #change for "state" and #hear for the others. */
  on(type, listener) {
    this.addEventListener(type, (event) => listener(event.detail));
    return this;
  }

  /** Open the connection and keep it open. While it waits for its next attempt: try now. */
  connect() {
    if (this.state === "connecting" || this.state === "open") return;
    clearTimeout(this.#timer);
    this.#failures = 0;
    this.#isSecondTry = false;
    this.#open();
  }

  /** Close it, and leave it closed. */
  disconnect() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null; // from here on its events are none of ours
    this.#wantedName = null;
    socket?.close(1000);
    this.#change("closed");
  }

  /** Log in, now or as soon as the connection is open, and again after each reconnection. */
  login(name) {
    this.#wantedName = name;
    return this.send({ type: "login", name });
  }

  /** Say something to everyone, or to one user alone. False: not connected, nothing was sent. */
  say(text, to) {
    return this.send(to === undefined ? { type: "say", text } : { type: "say", text, to });
  }

  /** Ask who is there; the answer is the event "users". */
  who() {
    return this.send({ type: "who" });
  }

  /** Send any object as JSON. False: not connected. */
  send(object) {
    if (this.state !== "open") return false;
    this.#socket.send(JSON.stringify(object));
    return true;
  }

  #open() {
    let socket;
    this.#change("connecting");
    try {
      socket = new WebSocket(this.url);
    } catch (error) {
      // Not the network's fault, so trying again won't help.
      this.#change("closed", Engine.#whyNone(error));
      return;
    }
    this.#socket = socket;
    let wasOpen = false;
    // A socket that was given up may still have events on their way: they are passed over.
    const ifCurrent = (action) => (event) => socket === this.#socket && action(event);
    socket.onopen = ifCurrent(() => {
      wasOpen = true;
      this.#opened();
    });
    socket.onmessage = ifCurrent((event) => this.#hear(event.data));
    const closed = ifCurrent((event) => this.#closed(wasOpen, event));
    socket.onclose = closed;
    // Scripts aren't told what the error was. A close event follows it at once; but in Node 20 none does
    // where the connection never opened.
    socket.onerror = () => wasOpen || setTimeout(closed, 0, { code: 1006, reason: "" });
  }

  /** Why there is no socket, from what the attempt to make one threw. */
  static #whyNone(error) {
    if (typeof WebSocket !== "function") return { problem: "unsupported" }; // an old Node, say
    // A malformed address; or a port that browsers won't go to, or ws:// from a page that came over https.
    const problem = { SyntaxError: "address", SecurityError: "blocked" }[error?.name];
    return problem ? { problem } : { problem: "unknown", reason: String(error) };
  }

  #opened() {
    const afterSecondTry = this.#isSecondTry;
    this.#failures = 0;
    this.#isSecondTry = false;
    this.#change("open", { afterSecondTry });
    if (this.#wantedName !== null) this.send({ type: "login", name: this.#wantedName });
  }

  #hear(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return; // not ours
    }
    if (message?.type === "welcome") this.name = message.name;
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
    this.dispatchEvent(new CustomEvent(String(message?.type), { detail: message }));
  }

  #closed(wasOpen, { code, reason }) {
    this.#socket = null;
    this.name = null;
    const problem = wasOpen ? "lost" : "failed";
    if (this.useWss && !wasOpen && !this.#isSecondTry) {
      // A server that tells TLS by the trial method closes the first wss connection: now it has
      // remembered our address, and for some seconds it will take the next one for TLS. So the
      // second try comes at once, or the seconds would be over. Where something else is wrong,
      // it costs one connection more. (Chromium itself tries a second time where a TLS handshake was
      // cut off, before it tells us. Not every client is so kind.)
      this.#isSecondTry = true;
      this.#open();
      return;
    }
    this.#isSecondTry = false;
    this.#wait({ problem, code, reason });
  }

  #wait(why) {
    const pause = Math.min(Engine.FIRST_PAUSE * 2 ** this.#failures, Engine.LONGEST_PAUSE);
    this.#failures += 1;
    const milliseconds = pause * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#open(), milliseconds);
    this.#change("waiting", { ...why, milliseconds });
  }

  /**
   * The event "state" tells how the connection is:
   *
   *     state           "closed", "connecting", "open", "waiting"
   *     afterSecondTry  open: whether the first try was closed (by the trial method, most likely)
   *     milliseconds    waiting: until the next attempt
   *     problem         waiting: "failed" (never opened) or "lost" (was open);
   *                     closed: "blocked" by the browser, a bad "address", "unsupported": there is no
   *                     WebSocket here, "unknown", or nothing: as you wished
   *     code, reason    waiting: of the close (RFC 6455 section 7.4); 1006 where there was none
   *     reason          closed, where the problem is "unknown": what the browser said
   */
  #change(state, facts = {}) {
    this.state = state;
    if (state !== "open") this.name = null;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, ...facts } }));
  }
}
