// SPDX-License-Identifier: MIT
/*
 * The server's window: what /monitor tells, made visible. First what is known of the server (the
 * model), then how it is drawn. Drawing waits for the browser's next frame, so that a thousand
 * events at once cost one drawing.
 */
"use strict";

const METHOD_WORDS = {
  peek: "The server looks at the first bytes without taking them (MSG_PEEK): whoever reads next finds them " +
    "all. The first one decides. One connection, no failed attempt.",
  trial: "The server reads the first message as if it were plain. What it can’t read must be TLS, but then it is " +
    "too late for this connection: it remembers the address and closes. The next one gets TLS.",
};

// The cases of a method: [what is counted, the first byte, what that means, what follows]
const METHOD_CASES = {
  peek: [
    ["tls", "16", "a TLS record", "TLS handshake, then look again inside"],
    ["http", "G P H…", "an HTTP method", "upgrade to WebSocket, or a file"],
    ["native", "{", "JSON", "a native client’s lines"],
    ["unknown", "other", "none of these", "remember the address, close; next time TLS"],
  ],
  trial: [
    ["http", "G P H…", "readable: HTTP", "upgrade to WebSocket, or a file"],
    ["native", "{", "readable: JSON", "a native client’s lines"],
    ["unreadable", "other", "unreadable", "remember the address, close"],
    ["recalled", "any", "from a remembered address", "TLS handshake before a byte is read"],
  ],
};

// What the server makes of a verdict. By the trial method it can only say what it can't read.
const VERDICT_WORDS = {
  peek: { tls: "TLS", http: "HTTP", native: "native", unknown: "unknown" },
  trial: { tls: "unreadable", http: "HTTP", native: "native", unknown: "unreadable" },
};

/** 12.3 -> "12.3 µs", 2345 -> "2.3 ms" */
function timeInWords(microseconds) {
  return microseconds < 1000 ? `${microseconds} µs` : `${(microseconds / 1000).toFixed(1)} ms`;
}

/** A moment (seconds since 1970) as 10:32:05.123 */
function clockTime(seconds) {
  const moment = new Date(seconds * 1000);
  return `${moment.toLocaleTimeString("en-GB")}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
}

/** Since when: 09:41; of another day with its date, as 23 Nov, 09:41 */
function sinceInWords(seconds, now = new Date()) {
  const moment = new Date(seconds * 1000);
  const clock = moment.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (moment.toDateString() === now.toDateString()) return clock;
  const year = moment.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return `${moment.toLocaleDateString("en-GB", { day: "numeric", month: "short", year })}, ${clock}`;
}

/** "TLSv1.3 TLS_AES_256_GCM_SHA384" -> "TLS 1.3, AES_256_GCM_SHA384" */
function tlsInWords(versionAndCipher) {
  return versionAndCipher.replace("TLSv", "TLS ").replace(/ (?:TLS_)?([A-Z])/, ", $1");
}

// ================================================================ the model

/** What is known of one connection. */
class ConnectionRecord {
  constructor(id) {
    this.id = id;
    this.address = null;
    this.since = null; // seconds since 1970
    this.head = null; // the first bytes, where they were looked at
    this.verdict = null;
    this.microseconds = null;
    this.tls = null;
    this.certificate = null; // the client's: its subject
    this.kind = null; // ws, wss, tcp, tcps: once it talks
    this.path = null;
    this.name = null;
    this.isOpen = true;
    this.why = null; // it ended
    this.wasRefused = false;
    this.steps = []; // the server's events
  }

  /** From the snapshot: a client whose arrival we haven't seen. */
  static ofClient({ id, kind, address, path, name, tls, since, certificate }) {
    return Object.assign(new ConnectionRecord(id), { kind, address, path, name, tls, since, certificate });
  }

  /** Take one event in. */
  take(event) {
    this.steps.push(event);
    this.since ??= event.time;
    switch (event.step) {
      case "accepted":
        this.address = event.address;
        break;
      case "peeked":
        this.head = bytesOfHex(event.bytes);
        this.verdict = event.verdict;
        this.microseconds = event.us;
        if (event.verdict === "native") this.talksAs("tcp", "/");
        break;
      case "wrapped":
        this.tls = `${event.version} ${event.cipher}`;
        this.certificate = event.certificate;
        break;
      case "upgraded":
        this.talksAs(event.kind, event.path);
        break;
      case "login":
        this.name = event.name;
        if (!this.talks) this.talksAs(this.tls ? "tcps" : "tcp", "/");
        break;
      case "refused":
        this.wasRefused = true;
        break;
      case "closed":
        this.isOpen = false;
        this.why = event.why;
        break;
    }
  }

  talksAs(kind, path) {
    this.kind = kind;
    this.path = path;
  }

  get talks() {
    return this.kind !== null;
  }

  /** Whether it shows what this window shows. It goes with who looks at it, so it is counted apart. */
  get isWindow() {
    return this.path === "/monitor";
  }

  /** Whether it is one that a server with --tls-only would send away. */
  get isPlain() {
    return !this.isWindow && (this.kind === "ws" || this.kind === "tcp");
  }

  /** Whether it only fetched a file, as a browser does for this page. */
  get isFile() {
    return !this.isOpen && !this.talks && /^\d{3} /.test(this.why ?? "");
  }

  /** The kind, as far as it is known by now. */
  get kindSoFar() {
    if (this.kind) return this.kind;
    if (this.verdict === "http") return "http";
    return this.isFile ? "https" : null;
  }

  get ip() {
    return this.address?.replace(/:\d+$/, "") ?? "";
  }
}

/** What is known of the server. Emits nothing: whoever changes it draws it. */
class ServerModel {
  static RECENT = 20; // connections in the list
  static FILES = 8; // of these at most so many fetched a file only: a browser makes several for one page

  constructor() {
    this.reset({ detect: null, clients: [], memory: [] });
  }

  /** Begin anew, with a snapshot. */
  reset({ detect, clients, memory }) {
    this.detect = detect;
    this.records = new Map(); // id -> record, of all that are open or in the list
    this.recent = []; // records, the newest first
    this.counts = {}; // how often each case of the method came
    this.memory = new Map(); // ip -> { until, seconds }, in seconds of this page's clock
    for (const client of clients) this.records.set(client.id, ConnectionRecord.ofClient(client));
    for (const { ip, seconds_left: left, seconds } of memory) this.remember(ip, left, seconds ?? Math.max(left, 6));
  }

  /** Take one event in; return the record that it is about. */
  take(event) {
    let record = this.records.get(event.id);
    if (!record) {
      record = new ConnectionRecord(event.id);
      this.records.set(event.id, record);
      if (event.step === "accepted") this.recent.unshift(record); // or it came before this window did
    }
    record.take(event);
    this.count(event, record);
    if (event.step === "remembered") this.remember(event.ip, event.seconds, event.seconds);
    this.forgetOldRecords();
    return record;
  }

  count(event, record) {
    const add = (what) => (this.counts[what] = (this.counts[what] ?? 0) + 1);
    if (event.step === "peeked") add(event.verdict);
    if (event.step === "remembered") add("unreadable");
    if (event.step === "wrapped" && !record.head) add("recalled");
  }

  /** An entry keeps its time: nothing renews it. */
  remember(ip, left, seconds) {
    this.forgetOldAddresses();
    if (!this.memory.has(ip)) this.memory.set(ip, { until: performance.now() / 1000 + left, seconds });
  }

  forgetOldAddresses() {
    const now = performance.now() / 1000;
    for (const [ip, { until }] of this.memory) if (until <= now) this.memory.delete(ip);
  }

  forgetOldRecords() {
    const files = this.recent.filter((record) => record.isFile);
    if (files.length > ServerModel.FILES) this.recent.splice(this.recent.indexOf(files.at(-1)), 1);
    this.recent.splice(ServerModel.RECENT);
    const listed = new Set(this.recent);
    for (const record of this.records.values()) {
      if (!record.isOpen && !listed.has(record)) this.records.delete(record.id);
    }
  }

  /** Those that talk now: plain ones, those by TLS, and windows like this one. */
  clients() {
    const talking = Array.from(this.records.values()).filter((record) => record.isOpen && record.talks);
    return {
      plain: talking.filter((record) => record.isPlain),
      tls: talking.filter((record) => !record.isPlain && !record.isWindow),
      windows: talking.filter((record) => record.isWindow),
    };
  }
}

// ================================================================ the window

class ServerWindow {
  static CLIENTS = 100; // rows; more would help nobody

  constructor() {
    this.model = new ServerModel();
    this.changed = new Set(); // records to draw anew
    this.draw = onceAFrame(() => this.drawAll());
    this.rows = new Map(); // record -> its row among the clients
    this.cards = new Map(); // record -> its card in the list of the last connections
    this.engine = new Engine();
    this.inspector = new Inspector(this.engine, () => this.redrawClients());
    this.engine
      .on("state", (now) => this.showState(now))
      .on("snapshot", (snapshot) => this.begin(snapshot))
      .on("event", (event) => this.take(event))
      .on("bytes", (chunk) => this.inspector.take(chunk))
      .on("missed", ({ events }) => this.showMissed(events))
      .on("error", ({ reason }) => this.inspector.showRefusal(reason));
    setInterval(() => this.drawMemory(), 100);
  }

  /** Watch the server there. */
  connect(host, port, useWss) {
    const { state, ...now } = this.engine;
    if (state !== "closed" && now.host === host && now.port === port && now.useWss === useWss) return;
    this.engine.disconnect();
    this.engine.initialize(host, port, useWss, "/monitor");
    this.engine.connect();
  }

  /** Whether a server is seen right now at an address. */
  isOpenTo(host, port) {
    return this.engine.state === "open" && this.engine.host === host && this.engine.port === port;
  }

  /** Whether the server takes every client from some address for TLS now. */
  takesAllForTls() {
    this.model.forgetOldAddresses();
    return this.engine.state === "open" && this.model.detect === "trial" && this.model.memory.size > 0;
  }

  // ---------------------------------------------------------------- events

  begin(snapshot) {
    this.model.reset(snapshot);
    this.changed.clear();
    this.inspector.begin(this.model);
    this.drawMethod();
    this.draw();
  }

  take(event) {
    const record = this.model.take(event);
    this.changed.add(record);
    if (event.step === "closed") this.inspector.ended(record);
    this.draw();
  }

  showState({ state, milliseconds }) {
    const { url } = this.engine;
    const words = {
      closed: "Not connected",
      connecting: "Connecting…",
      open: "Live",
      waiting: "Not connected, retrying",
    }[state];
    byId("monitor-state").replaceChildren(words);
    byId("monitor-state").dataset.state = state;
    byId("server").dataset.state = state; // what is shown of a server that is gone looks gone
    if (state === "waiting") {
      countDown(byId("monitor-state"), milliseconds);
      this.explainFailure(url);
    }
    if (state === "open") showIn(byId("monitor-trouble"));
  }

  async explainFailure(url) {
    const { host, port } = this.engine;
    const answer = await askServer(host, port);
    if (this.engine.state === "open") return;
    const words = answer === null ? [`No answer from ${url}. This window connects again by itself.`]
      : OTHER_ANSWERS[answer]?.(host, port) ?? this.refusedWords(host);
    showIn(byId("monitor-trouble"), ...words);
  }

  /** The server is there, and shows no window. From its own machine it would show one that it has. */
  refusedWords(host) {
    const wasStartedWith = `started with --no-monitor${PLACE.fromDisk ? ", or with --tls-only" : ""}`;
    if (isLoopback(host)) return [`The server is there, but has no window: it was ${wasStartedWith}.`];
    return ["The server is there, but shows its window only to clients on its own machine, since it shows what ",
      `users write: open this page there, as http://127.0.0.1:… (Or it was ${wasStartedWith}, and has no window.)`];
  }

  /** The window was too slow for what happened. What it shows may be wrong now: begin anew. */
  showMissed(events) {
    this.inspector.gap(events);
    showIn(byId("monitor-trouble"), `${events} events came too fast for this window and were left out.`);
    clearTimeout(this.renewal);
    this.renewal = setTimeout(() => {
      this.engine.disconnect();
      this.engine.connect();
    }, 1000);
  }

  // ---------------------------------------------------------------- drawing

  drawAll() {
    this.drawClients();
    this.drawRecent();
    this.drawCounts();
    this.changed.clear();
  }

  drawMethod() {
    const { detect } = this.model;
    byId("method").textContent = detect;
    byId("method-words").textContent = METHOD_WORDS[detect] ?? "";
    byId("method-cases").replaceChildren(...(METHOD_CASES[detect] ?? []).map(([what, bytes, meaning, next]) =>
      make("li", { "data-case": what },
        make("code", { class: "byte" }, bytes),
        make("span", {}, make("b", {}, meaning), make("span", { class: "quiet" }, ` → ${next}`)),
        make("b", { "data-count": what, title: "since this window opened" }, "0"))));
  }

  drawCounts() {
    for (const counter of document.querySelectorAll("[data-count]")) {
      const count = String(this.model.counts[counter.dataset.count] ?? 0);
      if (counter.textContent === count) continue;
      counter.textContent = count;
      flash(counter.parentElement);
    }
  }

  drawMemory() {
    this.model.forgetOldAddresses();
    const { memory } = this.model;
    const list = byId("memory");
    byId("memory-empty").hidden = memory.size > 0 || !this.model.detect; // it isn't known before a snapshot
    for (const item of list.querySelectorAll("li")) if (!memory.has(item.dataset.ip)) item.remove();
    for (const [ip, { until, seconds }] of Array.from(memory).slice(0, 50)) {
      const left = Math.max(0, until - performance.now() / 1000);
      let item = list.querySelector(`[data-ip="${CSS.escape(ip)}"]`);
      if (!item) {
        item = make("li", { "data-ip": ip }, make("span", { class: "mono" }, ip),
          make("progress", { max: seconds, "aria-label": `${ip}: time left` }), make("span", { class: "left mono" }));
        list.append(item);
      }
      item.querySelector("progress").value = left;
      item.querySelector(".left").textContent = `${left.toFixed(1)} s`;
    }
  }

  drawClients() {
    const { plain, tls, windows } = this.model.clients();
    const count = plain.length + tls.length + windows.length;
    const shown = [];
    for (const group of [plain, tls, windows]) shown.push(...lastOf(group, ServerWindow.CLIENTS - shown.length));
    byId("clients-count").textContent = count || "";
    byId("clients-empty").hidden = count > 0;
    showIn(byId("migration"), ...(count ? migrationInWords(plain, tls, windows) : []));
    syncList(byId("clients"), shown, this.rows, this.changed, (record, row) => this.clientRow(record, row));
  }

  /** A client's row: made once, so that its button keeps the focus, and filled in anew. */
  clientRow(record, row) {
    if (!row) {
      row = make("tr", { role: "row", "data-id": record.id });
      for (const column of ["id", "kind", "name", "address", "path", "tls", "frames"]) {
        row.append(make("td", { role: "cell", "data-column": column }));
      }
      row.querySelector("[data-column=frames]").append(this.inspectButton(record));
      flash(row);
    }
    const set = (column, ...content) => row.querySelector(`[data-column=${column}]`).replaceChildren(...content);
    set("id", `#${record.id}`);
    set("kind", kindLabel(record.kind));
    set("name", record.name === null ? make("span", { class: "quiet" }, roleOf(record)) : make("bdi", {}, record.name));
    set("address", record.address ?? "from before this window");
    set("path", record.path);
    set("tls", ...(record.tls ? [tlsInWords(record.tls)] : ["no TLS, since ", timeSince(record.since)]));
    if (record.certificate) row.querySelector("[data-column=tls]").append(" ", certificateLine(record.certificate));
    row.dataset.kind = record.kind;
    const button = row.querySelector("button");
    button?.setAttribute("aria-pressed", String(this.inspector.shows(record)));
    return row;
  }

  inspectButton(record) {
    if (record.isWindow) return make("span", { class: "quiet", title: "It would show itself showing itself" }, "–");
    const button = make("button", { type: "button", "aria-label": `Inspect the frames of connection ${record.id}` }, "Inspect");
    button.addEventListener("click", () => {
      if (this.inspector.shows(record)) this.inspector.close();
      else this.inspector.open(record);
    });
    return button;
  }

  redrawClients() {
    for (const record of this.rows.keys()) this.changed.add(record);
    this.draw();
  }

  drawRecent() {
    byId("recent-empty").hidden = this.model.recent.length > 0;
    const { detect } = this.model;
    syncList(byId("recent"), this.model.recent, this.cards, this.changed, (record, card) => connectionCard(record, card, detect));
  }
}

/** What a connection without a name is for. */
function roleOf(record) {
  return record.isWindow ? "a server’s window" : "not logged in";
}

/** How far the migration to TLS has come, in one line: who would be sent away, and since when they are there. */
function migrationInWords(plain, tls, windows) {
  const words = ["By TLS: ", make("b", {}, tls.length), " · plain: ", make("b", {}, plain.length)];
  if (plain.length) {
    const first = Math.min(...plain.map(({ since }) => since));
    words.push(plain.length > 1 ? ", the first since " : ", since ", timeSince(first));
  }
  if (windows.length) words.push(" ", make("span", {}, `· windows: ${windows.length}`));
  return words;
}

function timeSince(seconds) {
  const moment = new Date(seconds * 1000);
  return make("time", { datetime: moment.toISOString(), title: moment.toLocaleString("en-GB") }, sinceInWords(seconds));
}

function certificateLine(subject) {
  return make("span", { class: "certificate", title: "its subject" }, "certificate ", make("bdi", {}, subject));
}

/** The last elements of an array, at most so many. */
function lastOf(array, most) {
  return array.slice(Math.max(0, array.length - most));
}

/** Let an element light up for a moment. */
function flash(element) {
  if (element.classList.contains("fresh")) return;
  element.classList.add("fresh");
  element.onanimationend = ({ animationName }) => {
    if (animationName === "arrive") element.classList.remove("fresh"); // "slide" ends before it
  };
}

/**
 * Make a list's elements be those of `records`, in that order. Elements are kept from drawing to drawing,
 * and `drawOne(record, element or undefined)` is called for new and changed records alone.
 */
function syncList(list, records, elements, changed, drawOne) {
  const wanted = new Set(records);
  for (const [record, element] of elements) {
    if (wanted.has(record)) continue;
    element.remove();
    elements.delete(record);
  }
  let next = list.firstElementChild;
  for (const record of records) {
    let element = elements.get(record);
    if (!element || changed.has(record)) element = drawOne(record, element);
    elements.set(record, element);
    if (element === next) next = next.nextElementSibling;
    else list.insertBefore(element, next);
  }
}

// ================================================================ one of the last connections

/** A connection's card: its first bytes, what they mean, and what followed. */
function connectionCard(record, card, detect) {
  const content = [cardHead(record), ...cardBytes(record, detect), cardSteps(record, detect)];
  if (!card) {
    card = make("li", { "data-id": record.id });
    flash(card);
  }
  const isUnreadable = detect === "trial" && record.verdict === "tls";
  card.dataset.verdict = isUnreadable ? "unknown" : record.verdict ?? (record.tls ? "tls" : "none");
  card.classList.toggle("open", record.isOpen);
  card.classList.toggle("refused", record.wasRefused);
  card.replaceChildren(...content);
  return card;
}

function cardHead(record) {
  const kind = record.kindSoFar;
  return make("p", { class: "card-head" },
    make("b", {}, `#${record.id}`), " ",
    kindLabel(kind ?? (record.wasRefused ? "refused" : record.isOpen ? "…" : "none")), " ",
    record.name === null ? "" : make("bdi", { class: "who" }, record.name),
    make("span", { class: "quiet from" }, `from ${record.address ?? "?"}`),
    make("time", { class: "quiet" }, record.steps.length ? clockTime(record.steps[0].time) : ""));
}

function cardBytes(record, detect) {
  if (!record.head) {
    const remembered = record.steps.some(({ step }) => step === "wrapped" || step === "refused");
    if (!remembered || detect !== "trial") return [];
    return [make("p", { class: "meaning" }, "A remembered address: TLS was expected before a byte was read.")];
  }
  const { confirming, words } = explainFirstBytes(record.head);
  const verdict = VERDICT_WORDS[detect]?.[record.verdict] ?? record.verdict;
  const cells = Array.from(record.head, (byte, index) =>
    make("span", { class: index === 0 ? "byte deciding" : index <= confirming ? "byte confirming" : "byte" },
      make("span", {}, hexOfByte(byte)), make("small", {}, asciiOfByte(byte))));
  return [
    make("p", { class: "bytes", role: "img", "aria-label": `first bytes: ${hexOfBytes(record.head)}` }, ...cells),
    make("p", { class: "meaning" },
      make("span", { class: "words" }, words), " → ",
      make("b", { class: "verdict" }, verdict), make("span", { class: "quiet" }, ` in ${timeInWords(record.microseconds)}`)),
  ];
}

function cardSteps(record, detect) {
  const start = record.steps[0]?.time ?? 0;
  const refusal = record.steps.find(({ step }) => step === "refused");
  return make("ol", { class: "steps", "aria-label": "steps" }, ...record.steps.map((event) =>
    make("li", { "data-step": event.step },
      make("span", { class: "what" }, stepInWords(event, detect, refusal?.why)), " ",
      make("small", {}, `+${((event.time - start) * 1000).toFixed(1)} ms`))));
}

function stepInWords(event, detect, saidAlready) {
  switch (event.step) {
    case "accepted": return "accepted";
    case "peeked": return detect === "trial" ? "read" : "looked at";
    case "remembered": return `${event.ip} remembered for ${event.seconds} s`;
    case "wrapped": return `${tlsInWords(`${event.version} ${event.cipher}`)}, handshake ${timeInWords(event.us)}`;
    case "upgraded": return event.kind.startsWith("ws") ? `upgraded to ${event.kind}, ${event.path}` : `talks ${event.kind}`;
    case "login": return `logged in: ${event.name}`;
    case "refused": return `refused: ${event.why}${hintAt(event.why)}`;
    case "closed": return ["closed", event.code && ` ${event.code}`, event.why !== saidAlready && `: ${event.why}`].filter(Boolean).join("");
    default: return event.step;
  }
}

/** What OpenSSL's words mean that a class will see. */
function hintAt(why) {
  if (/certificate unknown|unknown ca|bad certificate/.test(why)) return " (the client doesn’t trust the certificate)";
  if (/handshake: http request/.test(why)) return " (a plain client, where TLS was expected)";
  return "";
}

// ================================================================ the frame inspector

/** Shows one connection's frames, or lines, as they were on the wire. */
class Inspector {
  static FRAMES = 100; // in the list
  static SHOWN = 64; // bytes of a payload in hex
  static TEXT = 2000; // characters of a payload as text

  /** engine: to ask the server by; changed: called when another connection, or none, is shown. */
  constructor(engine, changed) {
    this.engine = engine;
    this.changed = changed;
    this.record = null;
    byId("inspector-close").addEventListener("click", () => {
      const button = document.querySelector("#clients [aria-pressed=true]");
      this.close();
      button?.focus(); // the one with the focus is gone
    });
    byId("inspector-pause").addEventListener("click", () => this.pause(!this.isPaused));
  }

  shows(record) {
    return this.record === record;
  }

  /** Watch a connection. */
  open(record) {
    this.unwatch();
    this.record = record;
    const isNative = record.kind.startsWith("tcp");
    const Direction = isNative ? LineDirection : FrameDirection;
    this.directions = { client: new Direction("client"), server: new Direction("server") };
    byId("inspector-title").textContent = `${isNative ? "Lines" : "Frames"} of #${record.id}` +
      `${record.name === null ? "" : `, ${record.name}`} (${record.kind})`;
    byId("inspector-words").textContent = isNative
      ? "A native client sends lines: one JSON object each, ended by a newline (0a). No frames, no mask."
      : "Each frame as it was on the wire" + (record.tls ? ", inside TLS" : "") + ". A client masks what it sends: " +
        "each byte XOR a byte of its key, so that no page can choose what passes through a proxy (RFC 6455, 5.3 and 10.3).";
    byId("frames").replaceChildren();
    byId("inspector").hidden = false;
    this.pause(false);
    this.say("Waiting for the next one…");
    this.engine.send({ type: "watch", id: record.id });
    byId("inspector-title").focus({ preventScroll: true });
    byId("inspector").scrollIntoView({ block: "nearest" });
    this.changed();
  }

  close() {
    this.unwatch();
    this.record = null;
    byId("inspector").hidden = true;
    this.changed();
  }

  unwatch() {
    if (this.record?.isOpen) this.engine.send({ type: "unwatch", id: this.record.id });
  }

  /** The window begins anew: go on with the same connection, where it is still there. */
  begin(model) {
    if (!this.record) return;
    const same = model.records.get(this.record.id);
    if (same?.address === this.record.address) {
      this.record = same;
      for (const direction of Object.values(this.directions)) direction.restart(); // there is a gap
      this.engine.send({ type: "watch", id: same.id });
    } else {
      this.record.isOpen = false;
      this.ended(this.record);
    }
  }

  ended(record) {
    if (record === this.record) this.say(`The connection has closed${record.why ? `: ${record.why}` : ""}.`);
  }

  showRefusal(reason) {
    if (this.record) this.say(`The server says: ${reason}.`);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.passed = 0;
    byId("inspector-pause").setAttribute("aria-pressed", String(isPaused));
    byId("inspector-pause").textContent = isPaused ? "Go on" : "Pause";
    if (this.record?.isOpen) this.say(isPaused ? "Paused." : "");
  }

  say(words) {
    const line = byId("inspector-state");
    if (line.textContent !== words) line.textContent = words; // it is read out
  }

  gap(events) {
    if (!this.record) return;
    for (const direction of Object.values(this.directions)) direction.restart();
    this.show(make("li", { class: "note" }, `${events} events left out here`));
  }

  /** Take a chunk as the server passed it on. */
  take({ id, time, from, bytes, more }) {
    if (id !== this.record?.id) return;
    for (const element of this.directions[from].read(bytesOfHex(bytes), more, time)) this.show(element);
  }

  show(element) {
    if (this.isPaused) {
      this.passed += 1;
      this.say(`Paused; ${this.passed} not shown.`);
      return;
    }
    this.say("");
    const list = byId("frames");
    list.prepend(element);
    while (list.childElementCount > Inspector.FRAMES) list.lastElementChild.remove();
  }
}

const DIRECTION_WORDS = { client: "client → server", server: "server → client" };

/** One direction of a native connection: bytes in, list elements out. */
class LineDirection {
  constructor(from) {
    this.from = from;
    this.reader = new LineReader();
  }

  restart() {
    this.reader.restart();
  }

  read(bytes, more, time) {
    return this.reader.read(bytes, more).map((line) => this.element(line, time));
  }

  element({ wire, length, missing }, time) {
    return frameElement(this.from, "line", time,
      make("div", { class: "fields" }, fieldList([["length", `${length}`]])),
      payloadColumns([["as it was on the wire", wire, missing, true]]),
      textOfPayload(textOfBytes(wire).replace(/\r?\n$/, ""), missing));
  }
}

/** One direction of a WebSocket: bytes in, list elements out. */
class FrameDirection {
  #inflater = new Inflater();
  #parts = null; // payloads so far of a compressed message that isn't complete
  #turn = Promise.resolve(); // messages are inflated one after the other: each needs the one before

  constructor(from) {
    this.from = from;
    this.reader = new FrameReader(from === "client");
  }

  restart() {
    this.reader.restart();
    this.#gap();
  }

  read(bytes, more, time) {
    return this.reader.read(bytes, more).map((frame) => (frame.lost ? this.#lost(frame) : this.#element(frame, time)));
  }

  #gap() {
    this.#parts = null;
    this.#turn = this.#turn.then(() => this.#inflater.restart());
  }

  #lost({ lost }) {
    this.#gap();
    return make("li", { class: "note" }, `${DIRECTION_WORDS[this.from]}: ${lost} bytes passed over, not the beginning of a frame`);
  }

  #element(frame, time) {
    const payload = unmask(frame.wire, frame.key);
    return frameElement(this.from, OPCODES[frame.opcode], time,
      make("div", { class: "fields" }, make("code", { class: "raw", title: "the frame’s header" }, hexOfBytes(frame.header)),
        fieldList(frameFields(frame))),
      this.#columns(frame, payload),
      this.#meaning(frame, payload));
  }

  #columns(frame, payload) {
    if (frame.length === 0) return "";
    if (!frame.masked) return payloadColumns([["payload; a server doesn’t mask", payload, frame.missing, true]]);
    const first = `${hexOfByte(frame.wire[0])} XOR ${hexOfByte(frame.key[0])} = ${hexOfByte(payload[0])}`;
    return payloadColumns([["masked, as it was on the wire", frame.wire, frame.missing, false],
      [`unmasked: ${first} …`, payload, frame.missing, true]]);
  }

  #meaning(frame, payload) {
    const isControl = frame.opcode >= 8;
    if (frame.opcode === 8) return textOfPayload(`${textOfClose(payload)}`, 0);
    if (isControl) return "";
    if (frame.rsv[0]) this.#parts = [];
    if (this.#parts) return this.#compressed(frame, payload);
    return frame.opcode === 1 ? textOfPayload(textOfBytes(payload), frame.missing) : "";
  }

  /** A compressed frame: RSV1 marks the first of a message, the last has FIN. */
  #compressed(frame, payload) {
    const words = make("p", { class: "text" }, "compressed (permessage-deflate, RSV1)");
    if (frame.missing) {
      this.#gap();
      return words;
    }
    this.#parts.push(payload);
    if (!frame.fin) return words;
    const message = joinBytes(this.#parts);
    this.#parts = null;
    if (Inflater.works) this.#turn = this.#turn.then(() => this.#inflate(message, words));
    return words;
  }

  async #inflate(message, words) {
    const inflated = await this.#inflater.inflate(message);
    if (!inflated) {
      words.append("; this window couldn’t inflate it");
      return;
    }
    const text = textOfBytes(inflated.slice(0, Inspector.TEXT)).replaceAll("\x1a", "░");
    words.replaceChildren(make("span", { class: "quiet" }, `compressed (RSV1): ${message.length} bytes, inflated ${inflated.length}: `),
      make("span", { dir: "auto" }, text),
      make("span", { class: "quiet" }, text.includes("░") ? "  (░ repeats what was sent before this window watched)" : ""));
  }
}

function frameElement(from, what, time, ...content) {
  const element = make("li", { class: `frame from-${from}`, "data-opcode": what },
    make("p", { class: "frame-head" }, make("b", {}, DIRECTION_WORDS[from]), make("span", { class: "pill" }, what),
      make("time", { class: "quiet" }, clockTime(time))),
    ...content);
  flash(element);
  return element;
}

function frameFields(frame) {
  return [
    ["FIN", frame.fin ? "1" : "0"],
    ["RSV", frame.rsv.join("")],
    ["opcode", `${frame.opcode.toString(16)} ${OPCODES[frame.opcode]}`],
    ["MASK", frame.masked ? "1" : "0"],
    ["length", frame.length.toLocaleString("en")],
    ["mask key", frame.key ? hexOfBytes(frame.key) : "none"],
  ];
}

function fieldList(fields) {
  return make("dl", {}, ...fields.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

/** Columns of bytes side by side: [caption, bytes, how many are missing, whether as characters too]. */
function payloadColumns(columns) {
  return make("div", { class: "payloads" }, ...columns.map(([caption, bytes, missing, hasText]) => {
    const beyond = Math.max(0, bytes.length - Inspector.SHOWN) + missing;
    const lines = hexLines(bytes.subarray(0, Inspector.SHOWN), hasText);
    if (beyond) lines.push(`and ${beyond.toLocaleString("en")} more`);
    return make("figure", {}, make("figcaption", {}, caption), make("pre", {}, lines.join("\n")));
  }));
}

/** Eight bytes a line, in two groups of four as the mask key repeats, and maybe their characters. */
function hexLines(bytes, hasText) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 8) {
    const eight = bytes.subarray(at, at + 8);
    const hex = `${hexOfBytes(eight.subarray(0, 4)).padEnd(11)}  ${hexOfBytes(eight.subarray(4)).padEnd(11)}`;
    lines.push(hasText ? `${hex}  ${Array.from(eight, asciiOfByte).join("")}` : hex);
  }
  return lines;
}

function textOfPayload(text, missing) {
  const more = missing || text.length > Inspector.TEXT ? " …" : "";
  return make("p", { class: "text", dir: "auto" }, text.slice(0, Inspector.TEXT) + more);
}
