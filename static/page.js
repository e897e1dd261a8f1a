// SPDX-License-Identifier: MIT
/*
 * The page: what both of its halves use, the client half, and the start of everything.
 * What others write is set as text, never as markup.
 */
"use strict";

// ================================================================ what both halves use

const byId = (id) => document.getElementById(id);

/** Make an element: make("b", { class: "pill" }, "text", anotherElement). Strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A kind of connection as a small label. */
function kindLabel(kind) {
  return make("span", { class: "kind", "data-kind": kind }, kind);
}

/** Show a box with these children, or hide it; leave it alone where nothing changes, since it is read out. */
function showIn(box, ...children) {
  const fresh = make("div", {}, ...children);
  if (box.textContent !== fresh.textContent) box.replaceChildren(...fresh.childNodes);
  box.hidden = children.length === 0;
}

/** A link that opens beside this page. */
function linkTo(url) {
  return make("a", { href: url, target: "_blank", rel: "noopener" }, url);
}

/** Make a function that calls draw() before the browser's next frame: once, however often it is called. */
function onceAFrame(draw) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      draw();
    });
  };
}

/** Keep a list from growing for ever: drop its oldest elements. */
function keepLast(list, most) {
  while (list.childElementCount > most) list.firstElementChild.remove();
}

/** Whether this can be a host's name or address (and isn't a whole URL, say). */
function isHost(text) {
  return /^[\p{L}\p{N}._-]+$|^[0-9a-f]*:[0-9a-f:.]*$|^\[[0-9a-f:.]+\]$/iu.test(text);
}

/** Where the page came from, and so where its server is; from the disk, where one usually is. */
const PLACE = (() => {
  if (location.protocol === "file:") return { fromDisk: true, tls: false, host: "127.0.0.1", port: 4530 };
  const tls = location.protocol === "https:";
  return { fromDisk: false, tls, host: location.hostname, port: Number(location.port) || (tls ? 443 : 80) };
})();

function isLoopback(host) {
  return /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i.test(host);
}

function isPlaceOfPage(host, port) {
  return !PLACE.fromDisk && host === PLACE.host && port === PLACE.port;
}

/**
 * Ask over HTTP what a server answers: a status, or null where that isn't known. A page isn't told
 * why a WebSocket failed, so this is how to tell a server that refuses from one that isn't there.
 */
async function askServer(host, port) {
  if (!PLACE.fromDisk && !isPlaceOfPage(host, port)) return null; // a page may not ask elsewhere
  const url = PLACE.fromDisk ? `http://${host}:${port}/` : "/";
  const how = PLACE.fromDisk ? { mode: "no-cors" } : { redirect: "manual" };
  try {
    const { type, status } = await fetch(url,
      { method: "HEAD", cache: "no-store", signal: AbortSignal.timeout(3000), ...how });
    return { opaque: 200, opaqueredirect: 308 }[type] ?? status; // of these two a page is told no status
  } catch {
    return null;
  }
}

// What a status means that has nothing to do with what was asked for.
const OTHER_ANSWERS = {
  308: (host, port) => ["The server takes TLS alone now (--tls-only): go on at ", linkTo(`https://${host}:${port}/`)],
  403: () => ["The server refuses what comes from this page; its log tells the reason."],
  503: () => ["The server has no room for one more client now. This page tries again by itself."],
};

/** Show in `element` the seconds that run down to a moment, hidden from screen readers. */
function countDown(element, milliseconds) {
  const end = performance.now() + milliseconds;
  const clock = make("span", { "aria-hidden": "true" });
  const tick = () => {
    clock.textContent = ` in\u00a0${Math.max(0, Math.ceil((end - performance.now()) / 1000))}\u00a0s`;
    if (clock.isConnected && performance.now() < end) setTimeout(tick, 200);
  };
  element.append(clock);
  tick();
}

// ================================================================ the client half

class ClientHalf {
  static MESSAGES = 500; // of the conversation, kept on the page
  static PEOPLE = 100; // names shown; all of them can be written to

  /** serverWindow: the other half; it knows whether the server is there. */
  constructor(serverWindow) {
    this.serverWindow = serverWindow;
    this.engine = new Engine();
    this.people = new Map(); // name -> kind
    this.showPeople = onceAFrame(() => this.drawPeople());
    this.scrollToEnd = onceAFrame(() => (byId("conversation").scrollTop = byId("conversation").scrollHeight));
    this.isAtEnd = true; // of the conversation
    this.fillIn();
    this.listenToPage();
    this.listenToEngine();
  }

  fillIn() {
    byId("host").value = PLACE.host;
    byId("port").value = PLACE.port;
    byId("use-wss").checked = PLACE.tls;
    this.showUrl();
  }

  listenToPage() {
    byId("connection").addEventListener("submit", (event) => {
      event.preventDefault();
      this.connectOrLogIn();
    });
    byId("address").addEventListener("input", () => this.showUrl());
    byId("disconnect").addEventListener("click", () => {
      this.engine.disconnect();
      byId("connect").focus(); // the button that had the focus is gone
    });
    byId("conversation").addEventListener("scroll", ({ target }) => {
      this.isAtEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
    });
    byId("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.say();
    });
  }

  listenToEngine() {
    this.engine
      .on("state", (now) => this.showState(now))
      .on("welcome", (message) => this.welcomed(message))
      .on("users", ({ users }) => this.setPeople(users))
      .on("joined", ({ name, kind }) => this.joined(name, kind))
      .on("left", ({ name }) => this.left(name))
      .on("said", (message) => this.showSaid(message))
      .on("error", ({ reason }) => this.showRefusal(reason));
  }

  // ---------------------------------------------------------------- connecting

  /** What the form says now. */
  form() {
    return {
      host: byId("host").value.trim(),
      port: Number(byId("port").value),
      useWss: byId("use-wss").checked,
      name: byId("name").value.trim(),
    };
  }

  showUrl() {
    const { host, port, useWss } = this.form();
    const engine = new Engine();
    engine.initialize(host, port, useWss);
    byId("url").replaceChildren(engine.url.slice(0, -engine.path.length), make("wbr"), engine.path);
  }

  connectOrLogIn() {
    const { host, port, useWss, name } = this.form();
    if (this.engine.state === "open") {
      this.engine.login(name);
      return;
    }
    if (!isHost(host)) {
      this.showTrouble(this.badHostWords(host));
      return;
    }
    if (PLACE.tls && !useWss && !isLoopback(host)) {
      this.showTrouble(...this.mixedContentWords(host, port));
      return;
    }
    if (PLACE.fromDisk) this.serverWindow.connect(host, port, false); // it follows the client
    this.engine.initialize(host, port, useWss);
    this.engine.login(name);
    this.engine.connect();
  }

  showState(now) {
    const { state } = now;
    const isClosed = state === "closed";
    byId("address").disabled = !isClosed;
    byId("disconnect").hidden = isClosed;
    byId("disconnect").textContent = state === "open" ? "Disconnect" : "Stop";
    if (state !== "open") this.setPeople([]);
    if (state === "open") this.showOpen(now);
    if (state === "waiting") this.showWaiting(now);
    if (isClosed) this.showClosed(now);
    this.showStateWords(now);
  }

  showStateWords({ state, milliseconds }) {
    const scheme = this.engine.useWss ? "wss" : "ws";
    const { name } = this.engine;
    const words = {
      closed: ["Not connected"],
      connecting: [`Connecting over ${scheme}…`],
      open: name === null ? [`Connected over ${scheme}, not logged in`]
        : [`Connected over ${scheme} as `, make("bdi", {}, name)],
      waiting: ["Not connected, retrying"],
    }[state];
    byId("state").replaceChildren(...words);
    byId("state").dataset.state = state;
    if (state === "waiting") countDown(byId("state"), milliseconds);
    const isLoggedIn = name !== null;
    byId("connect").textContent = { open: "Log in", waiting: "Try now" }[state] ?? "Connect";
    byId("connection").classList.toggle("logged-in", isLoggedIn); // then there is nothing to fill in
    byId("connect").disabled = isLoggedIn || state === "connecting";
    byId("name").readOnly = isLoggedIn;
    byId("text").disabled = byId("say").disabled = !isLoggedIn;
  }

  showOpen({ afterSecondTry }) {
    this.showTrouble();
    if (afterSecondTry) {
      this.note("The first wss attempt was closed, as the trial method does it. The second one, made at once, got through.");
    }
  }

  showClosed({ problem, reason }) {
    const { host, port } = this.form();
    if (problem === "address") {
      this.showTrouble(this.badHostWords(host));
    } else if (problem === "blocked" && PLACE.tls && !this.engine.useWss) {
      this.showTrouble(...this.mixedContentWords(host, port));
    } else if (problem === "blocked") {
      this.showTrouble(`The browser doesn’t let pages go to port ${port}.`);
    } else if (problem === "unsupported") {
      this.showTrouble("This browser has no WebSocket.");
    } else if (problem === "unknown") {
      this.showTrouble(`The browser opened no connection: ${reason}`);
    } else {
      this.showTrouble();
    }
  }

  showWaiting({ problem, code, reason }) {
    if (problem === "lost") {
      const words = this.lostWords(code, reason);
      this.note(words);
      this.showTrouble(`${words} This page connects again by itself.`);
    } else {
      this.explainFailure();
    }
  }

  lostWords(code, reason) {
    const words = {
      1000: "The server closed the connection.",
      1001: "The server was stopped.",
      1006: "The connection broke off.",
      1009: "A message was too big for the server.",
      1011: "The server’s application failed.",
    }[code] ?? "The server closed the connection.";
    return `${words} (${[code, reason].filter(Boolean).join(": ")})`;
  }

  /** A WebSocket didn't open, and the browser tells no page why. Find out what can be found out. */
  async explainFailure() {
    const { host, port, useWss, url } = this.engine;
    const answer = this.serverWindow.isOpenTo(host, port) ? 200 : await askServer(host, port);
    if (this.engine.state === "open" || this.engine.state === "closed") return; // meanwhile
    if (useWss) {
      this.showTrouble(...this.failedWssWords(host, port, answer !== null));
    } else if (answer in OTHER_ANSWERS) {
      this.showTrouble(...OTHER_ANSWERS[answer](host, port));
    } else if (answer !== null) {
      this.showTrouble(...this.refusedWords(host, port));
    } else {
      this.showTrouble(`No answer from ${url}. Is the server running there? This page tries again by itself.`);
    }
  }

  failedWssWords(host, port, isThere) {
    const isTrusted = PLACE.tls && isPlaceOfPage(host, port); // or the page weren't here
    const noAnswer = `No answer from wss://${host}:${port}. `;
    if (isTrusted) return [noAnswer, "Is the server running? This page tries again by itself."];
    const advice = ["open ", linkTo(`https://${host}:${port}/`),
      " once, accept it, come back. This page tries again by itself."];
    if (isThere) return ["The browser doesn’t trust this certificate yet: ", ...advice];
    return [noAnswer, "Either the server isn’t running there, or the browser doesn’t trust this ",
      "certificate yet (it tells no page which): then ", ...advice];
  }

  refusedWords(host, port) {
    if (this.serverWindow.takesAllForTls()) {
      return ["The server remembers this address from a wss login and takes every client from here for ",
        "TLS, until the time in its window has run down. This page tries again by itself."];
    }
    return [`The server at ${host}:${port} is there, but refuses this page. It takes pages that it sent itself, `,
      "and others that its --origin flag names; its log tells the reason."];
  }

  badHostWords(host) {
    return `“${host}” isn’t a host’s name or address. One is 127.0.0.1, or localhost, or [::1].`;
  }

  mixedContentWords(host, port) {
    return ["This page came over https, and browsers don’t let such a page open a plain ws:// connection ",
      `to ${host} (“mixed content”). Switch useWss on, or open the page over http: `,
      linkTo(`http://${host}:${port}/`)];
  }

  showTrouble(...words) {
    showIn(byId("trouble"), ...words);
  }

  /** The server's word for what it doesn't do. */
  showRefusal(reason) {
    const words = `The server says: ${reason}.`;
    if (this.engine.name !== null) {
      this.note(words, "bad");
      return;
    }
    this.showTrouble(`${words} Choose a name and log in.`);
    byId("name").focus();
    byId("name").select();
  }

  // ---------------------------------------------------------------- people

  welcomed({ name, kind, users }) {
    this.showStateWords({ state: "open" });
    this.showTrouble();
    this.setPeople(users);
    this.note(`You are logged in as ${name}, over ${kind}.`);
    byId("text").focus({ preventScroll: true });
  }

  joined(name, kind) {
    this.people.set(name, kind);
    this.showPeople();
    this.note(`${name} came, over ${kind}.`);
  }

  left(name) {
    this.people.delete(name);
    this.showPeople();
    this.note(`${name} left.`);
  }

  setPeople(users) {
    this.people = new Map(users.map(({ name, kind }) => [name, kind]));
    this.showPeople();
  }

  drawPeople() {
    const { size } = this.people;
    byId("people-count").textContent = size || "";
    byId("people-empty").hidden = size > 0;
    const shown = [...this.people].slice(0, ClientHalf.PEOPLE).map(([name, kind]) => this.person(name, kind));
    if (size > ClientHalf.PEOPLE) shown.push(make("li", { class: "quiet" }, `and ${size - ClientHalf.PEOPLE} more`));
    byId("people").replaceChildren(...shown);
    this.drawReceivers();
  }

  person(name, kind) {
    const isMe = name === this.engine.name;
    const label = [kindLabel(kind), " ", make("bdi", {}, name)];
    if (isMe) return make("li", { "data-name": name }, make("span", { class: "person me" }, ...label, " (you)"));
    const button = make("button", { type: "button", class: "person", title: "Write to this one alone" }, ...label);
    button.addEventListener("click", () => {
      byId("to").value = name;
      byId("text").focus();
    });
    return make("li", { "data-name": name }, button);
  }

  /**
   * Offer everyone and each one as the receiver. Who was chosen stays chosen, gone or not: a private
   * message must not go to everyone because its receiver left while it was being written.
   */
  drawReceivers() {
    const select = byId("to");
    const chosen = select.value;
    const others = [...this.people.keys()].filter((name) => name !== this.engine.name);
    const options = [make("option", { value: "" }, "everyone"),
      ...others.map((name) => make("option", { value: name }, name))];
    if (chosen && !others.includes(chosen)) options.push(make("option", { value: chosen }, `${chosen} (not here)`));
    select.replaceChildren(...options);
    select.value = chosen;
  }

  // ---------------------------------------------------------------- conversation

  say() {
    const text = byId("text").value;
    const to = byId("to").value;
    if (text && this.engine.say(text, to || undefined)) byId("text").value = "";
  }

  showSaid({ from, to, text }) {
    const isMine = from === this.engine.name;
    const who = [make("bdi", { class: "who" }, from)];
    if (to !== undefined) who.push(" to ", make("bdi", { class: "who" }, to), " alone");
    const classes = ["said", isMine && "mine", to !== undefined && "private"].filter(Boolean).join(" ");
    this.append(make("li", { class: classes }, make("span", { class: "by" }, ...who), " ",
      make("span", { class: "words", dir: "auto" }, text)));
  }

  note(text, kind = "") {
    this.append(make("li", { class: `note ${kind}`.trim() }, text));
  }

  append(item) {
    byId("conversation").append(item);
    keepLast(byId("conversation"), ClientHalf.MESSAGES);
    if (this.isAtEnd) this.scrollToEnd(); // who has scrolled back goes on reading there
  }
}

// ================================================================ the start

const serverWindow = new ServerWindow();
const clientHalf = new ClientHalf(serverWindow);
serverWindow.connect(PLACE.host, PLACE.port, PLACE.tls);

// A browser may keep a page that was left, sockets and all, to have it ready for the button "back".
// For the others in the room, who has left the page has left: so hang up, and begin anew on the way back.
window.addEventListener("pagehide", () => {
  clientHalf.engine.disconnect();
  serverWindow.engine.disconnect();
});
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
