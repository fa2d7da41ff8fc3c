"use strict";
// One listener, one question at a time. An answer lives in the browser's storage from the moment it
// is given until the server has said that it is on the disk.
(() => {
  const $ = (id) => document.getElementById(id);
  const memory = new Map();
  const box = (() => {
    try {
      localStorage.setItem("tunesmith-try", "1");
      localStorage.removeItem("tunesmith-try");
      return localStorage;
    } catch { // storage is off: an answer then lives as long as the page
      return {
        getItem: (key) => memory.get(key) ?? null,
        setItem: (key, value) => memory.set(key, value),
        removeItem: (key) => memory.delete(key),
      };
    }
  })();
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const hex = (count) =>
    [...crypto.getRandomValues(new Uint8Array(count))]
      .map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let token = "";
  let players = [];
  let current = null; // the player that space starts and stops
  let state = null;
  let round = 0; // of the question shown: what arrives for an older one is dropped
  let sending = false;

  const say = (text) => { $("say").textContent = text; };
  const toast = (text) => {
    $("toast-p").textContent = text;
    $("toast").hidden = !text;
    if (text) say(text);
  };

  class Refusal extends Error {
    constructor(status, detail) {
      super(detail);
      this.status = status;
    }
  }

  // Asks until there is an answer; only a refusal ends it.
  async function ask(path, body, read = (reply) => reply.json()) {
    for (let pause = 500; ; pause = Math.min(pause * 2, 8000)) {
      try {
        const abort = new AbortController();
        const timer = setTimeout(() => abort.abort(), 60000);
        let reply;
        try {
          reply = await fetch(path, {
            method: body ? "POST" : "GET",
            headers: { Authorization: `Bearer ${token}`,
              ...(body ? { "Content-Type": "application/json" } : {}) },
            body: body ? JSON.stringify(body) : undefined,
            cache: "no-store", credentials: "omit", signal: abort.signal,
          });
          if (reply.ok) {
            const value = await read(reply);
            toast("");
            return value;
          }
        } finally {
          clearTimeout(timer);
        }
        if (reply.status < 500 && reply.status !== 408 && reply.status !== 429) {
          toast("");
          const told = await reply.json().catch(() => ({}));
          throw new Refusal(reply.status, typeof told.detail === "string" ? told.detail : "");
        }
      } catch (error) {
        if (error instanceof Refusal) throw error;
      }
      toast(body && path === "api/answer"
        ? "No connection. Your answer is kept here and sent again."
        : "No connection. Trying again.");
      await wait(pause);
    }
  }

  function show(name, heading) {
    for (const section of document.querySelectorAll("main > section")) {
      section.hidden = section.id !== `s-${name}`;
    }
    $("steps").hidden = name !== "ask";
    window.scrollTo(0, 0);
    $(heading).focus({ preventScroll: true });
  }

  function stop(title, text) {
    silence();
    $("stop-h").textContent = title;
    $("stop-p").textContent = text;
    show("stop", "stop-h");
  }

  const ICONS = {
    play: "M5.5 3.2v13.6a.8.8 0 0 0 1.2.7l11-6.8a.8.8 0 0 0 0-1.4l-11-6.8a.8.8 0 0 0-1.2.7Z",
    pause: "M5 3h3.4v14H5zM11.6 3H15v14h-3.4z",
  };
  const SVG = "http://www.w3.org/2000/svg";
  function make(kind, name, ...inside) {
    const element = document.createElement(kind);
    if (name) element.className = name;
    element.append(...inside);
    return element;
  }
  function drawing(name, view, path) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", name);
    svg.setAttribute("viewBox", view);
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(SVG, "path");
    line.setAttribute("d", path);
    svg.append(line);
    return svg;
  }

  class Player {
    constructor(holder, name, key, needed, onHeard) {
      Object.assign(this, { name, needed, onHeard, heard: false, ready: false, url: "" });
      this.audio = new Audio();
      this.audio.preload = "auto";
      this.icon = drawing("", "0 0 20 20", ICONS.play);
      this.state = make("span", "state", "Loading");
      this.fill = make("span");
      this.button = make("button", "play",
        make("span", "disc", this.icon), make("span", "name", name),
        drawing("tick", "0 0 16 16", "m2.5 8.5 3.7 3.7L13.5 4.3"),
        this.state, make("span", "track-bar", this.fill));
      this.button.type = "button";
      this.button.setAttribute("aria-disabled", "true");
      if (key) this.button.setAttribute("aria-keyshortcuts", key);
      this.button.addEventListener("click", () => this.toggle());
      for (const event of ["play", "pause", "ended", "timeupdate"]) {
        this.audio.addEventListener(event, () => this.draw());
      }
      this.audio.addEventListener("error", () => {
        if (this.url) this.state.textContent = "Cannot be played here";
      });
      holder.append(this.button);
    }
    load(blob) {
      this.url = URL.createObjectURL(blob);
      this.audio.src = this.url;
      this.ready = true;
      this.button.setAttribute("aria-disabled", "false");
      this.state.textContent = "Not heard yet";
    }
    drop() {
      this.audio.pause();
      this.audio.removeAttribute("src");
      if (this.url) URL.revokeObjectURL(this.url);
      this.url = "";
    }
    // Seconds of the sound that were played, each counted once.
    get seconds() {
      let sum = 0;
      for (let part = 0; part < this.audio.played.length; part++) {
        sum += this.audio.played.end(part) - this.audio.played.start(part);
      }
      return sum;
    }
    toggle() {
      if (!this.ready) return;
      if (!this.audio.paused) {
        this.audio.pause();
        return;
      }
      for (const other of players) if (other !== this) other.rest();
      current = this;
      this.audio.play().then(() => this.run(), () => {});
    }
    rest() { // the next time it starts at its beginning
      this.audio.pause();
      if (this.ready) this.audio.currentTime = 0;
    }
    run() {
      this.draw();
      if (!this.audio.paused && !still.matches) requestAnimationFrame(() => this.run());
    }
    draw() {
      const playing = !this.audio.paused && !this.audio.ended;
      const share = this.audio.duration ? this.audio.currentTime / this.audio.duration : 0;
      this.fill.style.transform = `translateX(${(Math.min(share, 1) - 1) * 100}%)`;
      this.button.classList.toggle("playing", playing);
      this.icon.firstChild.setAttribute("d", playing ? ICONS.pause : ICONS.play);
      if (!this.heard && this.ready && this.seconds >= this.needed) {
        this.heard = true;
        this.button.classList.add("heard");
        this.onHeard();
      }
      if (this.ready) {
        const text = playing ? "Playing" : this.heard ? "Heard" : this.seconds > 0
          ? "Not heard to the end yet" : "Not heard yet";
        if (this.state.textContent !== text) this.state.textContent = text;
      }
    }
  }

  function silence() {
    for (const player of players) player.drop();
    players = [];
    current = null;
  }

  const sound = (id) => ask(`api/sound/${id}`, null, (reply) => reply.blob());

  async function start() {
    const mine = ++round;
    silence();
    const left = state.total - state.done;
    const again = state.done > 0;
    $("title").textContent = again ? state.title : "Listening test";
    $("title").hidden = !again && state.title === "Listening test";
    document.title = state.title;
    $("start-h").textContent = again ? "Welcome back" : state.title;
    $("start-p").textContent = again
      ? `${state.done} of ${state.total} answers are saved, ${left} are left.`
      : { ab: "You will hear pairs of sounds, and say which one you prefer.",
          abx: "You will hear A, B and X. X is the same as one of the two: say which.",
          mos: "You will hear sounds one by one, and say how good each one is." }[state.kind];
    const practice = Math.max(0, state.practice - state.done);
    $("start-list").replaceChildren(...[
      practice ? `${left} questions; the first ${practice === 1 ? "one is" : `${practice} are`} for practice.`
        : `${left} question${left === 1 ? "" : "s"}.`,
      "There are no wrong answers to give: go by your ears.",
      "You can stop at any time. Open the same link to go on where you were.",
    ].filter((text, at) => !(state.kind === "abx" && at === 1))
      .map((text) => make("li", "", text)));
    $("level").replaceChildren();
    $("begin").setAttribute("aria-disabled", "true");
    $("begin").textContent = again ? "Go on" : "Begin";
    $("begin-hint").textContent = "Play the noise first.";
    const player = new Player($("level"), "Noise", "", 1, () => {
      $("begin").setAttribute("aria-disabled", "false");
      $("begin-hint").textContent = "Comfortable? Then leave the volume as it is.";
      say("You can begin when the volume is right.");
    });
    players = [player];
    current = player;
    show("start", "start-h");
    const blob = await sound(state.level);
    if (mine === round) player.load(blob);
  }

  function option(value, face, key, label) {
    const input = make("input");
    input.type = "radio";
    input.name = "choice";
    input.value = value;
    if (label) input.setAttribute("aria-label", label);
    input.setAttribute("aria-keyshortcuts", key);
    input.addEventListener("change", ready);
    return make("label", "option", input,
      make("span", "face", ...face, ...(label ? [] : [make("kbd", "", key)])));
  }

  const chosen = () => document.querySelector("#options input:checked");
  const allHeard = () => players.length > 0 && players.every((player) => player.heard);

  function ready() {
    const open = allHeard();
    $("answers").disabled = !open;
    $("next").setAttribute("aria-disabled", String(!(open && chosen()) || sending));
    const missing = players.filter((player) => !player.heard).map((player) => player.name);
    $("hint").textContent = sending ? "Saving" : !open
      ? (missing.length === players.length
        ? (players.length === 1 ? "Listen to it first." : players.length === 2
          ? "Listen to both first." : "Listen to all three first.")
        : `Listen to ${missing.join(" and ")} as well.`)
      : chosen() ? "" : "Now give your answer.";
  }

  async function question() {
    const mine = ++round;
    silence();
    sending = false;
    const trial = state.trial;
    $("title").textContent = state.title;
    $("title").hidden = false;
    document.title = state.title;
    const counted = state.total - state.practice;
    const number = trial.practice ? trial.place + 1 : trial.place + 1 - state.practice;
    $("count").textContent = trial.practice
      ? (state.practice > 1 ? `Practice ${number} of ${state.practice}` : "Practice") : `Question ${number} of ${counted}`;
    $("bar").max = state.total;
    $("bar").value = state.done;
    $("practice").hidden = !trial.practice;
    $("ask-h").textContent = state.question;
    $("legend").textContent = state.question;
    $("prompt").hidden = !trial.prompt;
    $("prompt").textContent = trial.prompt ? `Asked for: ${trial.prompt}` : "";
    $("players").replaceChildren();
    const single = trial.sounds.length === 1;
    players = trial.sounds.map((one) => new Player(
      $("players"), single ? "Sound" : one.letter, one.letter.toLowerCase(), trial.needed_s,
      () => { ready(); if (allHeard()) say("You can answer now."); }));
    current = players[0];
    const scale = state.kind === "mos";
    $("options").className = scale ? "options scale" : "options";
    $("options").replaceChildren(...state.choices.map((choice) => {
      if (scale) {
        const word = state.scale[Number(choice) - 1];
        return option(choice, [make("span", "point", choice), make("span", "", word)], choice,
          `${choice}, ${word}`);
      }
      const words = state.kind === "abx" ? { a: "X is A", b: "X is B" }
        : { a: "A", b: "B", tie: "No preference" };
      return option(choice, [make("span", choice === "tie" ? "" : "point", words[choice])],
        { a: "1", b: "2", tie: "0" }[choice]);
    }));
    const letters = single ? [] : trial.sounds.map((one) => one.letter);
    const rows = [
      ...letters.map((letter) => [letter, `play ${letter}`]),
      ["Space", single ? "play, pause" : "pause, and go on"],
      ...(scale ? [["1 to 5", "give that rating"]]
        : [["1", state.kind === "abx" ? "X is A" : "prefer A"], ["2", state.kind === "abx" ? "X is B" : "prefer B"],
          ...(state.choices.includes("tie") ? [["0", "no preference"]] : [])]),
      ["Enter", "next"],
    ];
    $("key-list").replaceChildren(...rows.flatMap(([key, what]) =>
      [make("dt", "", make("kbd", "", key)), make("dd", "", what)]));
    ready();
    show("ask", "ask-h");
    say(`${$("count").textContent}. ${state.question}`);
    try {
      await Promise.all(trial.sounds.map(async (one, at) => {
        const blob = await sound(one.id);
        if (mine === round) players[at].load(blob);
      }));
    } catch (error) {
      if (mine === round) refused(error);
    }
  }

  // Local storage survives a tab that crashes, but browsers write it to the disk only now and then.
  // A strict transaction of IndexedDB is on the disk when it completes. So both, and either will do.
  const vault = new Promise((done) => {
    try {
      const asked = indexedDB.open("tunesmith-listen", 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore("unsent");
      asked.onsuccess = () => done(asked.result);
      asked.onerror = asked.onblocked = () => done(null);
    } catch {
      done(null);
    }
  });
  const unsent = () => `tunesmith-unsent-${token.split(".")[0]}`;
  async function inVault(mode, act) {
    const db = await Promise.race([vault, wait(2000)]);
    if (!db) return undefined;
    const change = new Promise((done) => {
      try {
        const all = db.transaction("unsent", mode, { durability: "strict" });
        const asked = act(all.objectStore("unsent"));
        all.oncomplete = () => done(asked.result);
        all.onerror = all.onabort = () => done(undefined);
      } catch {
        done(undefined);
      }
    });
    return Promise.race([change, wait(2000)]);
  }
  async function keep(answer) {
    box.setItem(unsent(), answer);
    await inVault("readwrite", (all) => all.put(answer, unsent()));
  }
  async function forget() {
    box.removeItem(unsent());
    await inVault("readwrite", (all) => all.delete(unsent()));
  }

  // Sends what is waiting; gives the state that follows it.
  async function deliver() {
    const kept = (await inVault("readonly", (all) => all.get(unsent()))) ?? box.getItem(unsent());
    if (kept) {
      try {
        const told = await ask("api/answer", JSON.parse(kept));
        await forget();
        return told;
      } catch (error) {
        // Answered in another window, or not an answer that can be taken: ask what is next.
        if (!(error instanceof Refusal) || error.status === 401) throw error;
        await forget();
      }
    }
    return ask("api/session");
  }

  async function submit() {
    if (sending || !allHeard()) {
      ready();
      if (!sending) say($("hint").textContent);
      return;
    }
    const choice = chosen();
    if (!choice) {
      say("Give your answer first.");
      return;
    }
    sending = true;
    const heard = {};
    state.trial.sounds.forEach((one, at) => {
      players[at].audio.pause();
      heard[one.letter] = Math.round(players[at].seconds * 1000) / 1000;
    });
    ready();
    try {
      await keep(JSON.stringify(
        { place: state.trial.place, answer_id: hex(16), choice: choice.value, heard }));
      state = await deliver();
      next();
    } catch (error) {
      refused(error);
    }
  }

  function next() {
    if (state.trial) question();
    else end();
  }

  function end() {
    ++round;
    silence();
    $("title").textContent = state.title;
    $("end-p").textContent = `All ${state.total} of your answers are saved. You can close this page.`;
    show("end", "end-h");
  }

  async function refused(error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 404) { // another window has gone on
      state = await deliver();
      next();
    } else if (error.status === 403) {
      stop("This test is full", "It has all the listeners that it needs. Thank you for offering.");
    } else {
      stop("This link does not work",
        "It may be cut off at its end, or belong to another test. Ask whoever sent it for the whole link.");
    }
  }

  async function join(invitation) {
    const key = `tunesmith-joined-${invitation.slice(5, 21)}`;
    const saved = JSON.parse(box.getItem(key) ?? "{}");
    if (!saved.token) {
      saved.nonce = saved.nonce ?? hex(16);
      box.setItem(key, JSON.stringify(saved)); // kept first: asking twice then makes one listener
      token = invitation;
      saved.token = (await ask("api/join", { nonce: saved.nonce })).token;
      box.setItem(key, JSON.stringify(saved));
    }
    token = saved.token;
    history.replaceState(null, "", `#${token}`); // the address bar has the personal link now
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !$("use-keys").checked) return;
    const asking = !$("s-ask").hidden;
    const starting = !$("s-start").hidden;
    const on = event.target;
    const own = on.closest?.("button, a, summary, input[type=checkbox]");
    const key = event.key.toLowerCase();
    if (key === " " && !own && (asking || starting)) {
      event.preventDefault();
      current?.toggle();
    } else if (key === "enter" && !own) {
      event.preventDefault();
      if (asking) submit();
      else if (starting) $("begin").click();
    } else if (asking) {
      const at = "abx".indexOf(key);
      if (key.length === 1 && at >= 0 && players[at]) {
        event.preventDefault();
        players[at].toggle();
        return;
      }
      const value = state.kind === "mos" ? key : { 1: "a", 2: "b", 0: "tie" }[key];
      const input = value && document.querySelector(`#options input[value="${CSS.escape(value)}"]`);
      if (input && !$("answers").disabled) {
        event.preventDefault();
        input.checked = true;
        input.focus();
        ready();
      } else if (input) say($("hint").textContent);
    }
  });
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("begin").addEventListener("click", () => {
    if ($("begin").getAttribute("aria-disabled") === "true") say($("begin-hint").textContent);
    else next();
  });
  $("skip").addEventListener("click", (event) => { // the fragment of the address is the token
    event.preventDefault();
    document.querySelector("main > section:not([hidden]) h1").focus();
  });
  $("use-keys").checked = box.getItem("tunesmith-keys") !== "off";
  $("use-keys").addEventListener("change", () => {
    box.setItem("tunesmith-keys", $("use-keys").checked ? "on" : "off");
  });
  window.addEventListener("hashchange", () => location.reload());

  (async () => {
    token = location.hash.slice(1);
    if (!token) {
      stop("This page needs a link", "Ask whoever runs the test for the whole link, with the part behind the #.");
      return;
    }
    try {
      if (token.startsWith("join.")) await join(token);
      state = await deliver();
      if (state.trial) await start();
      else end();
    } catch (error) {
      await refused(error);
    }
  })();
})();
